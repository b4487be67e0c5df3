"""From a stream of files to features: decode ahead, infer in batches of one fixed shape."""

import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from vision.engines import Engine
from vision.images import ImageError, decode
from vision.specs import FeatureSpec


@dataclass
class StageSeconds:
    """Where the time went; reading and decoding run beside inference."""

    read: float = 0.0
    decode: float = 0.0
    infer: float = 0.0


@dataclass
class Extracted:
    """Features of the images that could be used, and why the others could not.

    keys, features: n keys and (n, *shape) in the dtype of the spec, in the order in which they came.
    errors: key → (code, message).
    """

    keys: list[bytes]
    features: np.ndarray
    errors: dict[bytes, tuple[str, str]]
    seconds: StageSeconds = field(default_factory=StageSeconds)


class Hands(Protocol):
    """Is told which image is being read, then decoded, and which batch inferred, each until the next word of it.

    Called for every image, from two threads: it should cost nothing beside a decode.
    """

    def reading(self, key: bytes) -> None: ...

    def decoding(self, key: bytes) -> None: ...

    def decoded(self) -> None: ...

    def inferring(self, keys: Sequence[bytes]) -> None: ...

    def inferred(self) -> None: ...


class NoHands:
    """Nobody wants to know."""

    def reading(self, key: bytes) -> None: ...

    def decoding(self, key: bytes) -> None: ...

    def decoded(self) -> None: ...

    def inferring(self, keys: Sequence[bytes]) -> None: ...

    def inferred(self) -> None: ...


def extract(
    engine: Engine,
    images: Iterable[tuple[bytes, Callable[[], bytes]]],
    on_batch: Callable[[int], None] = lambda done: None,
    hands: Hands | None = None,
    apart: Container[bytes] = (),
) -> Extracted:
    """Features of `images`, pairs of a key and a function that reads the file's bytes.

    The next batch is read and decoded in a thread while one is inferred. A file that cannot be read or
    decoded, as an ImageError of its reader or of the decoder says, costs its own row only; anything
    else passes through. `on_batch` is told how many are done. apart: keys that are inferred each without others.
    """
    seconds = StageSeconds()
    errors: dict[bytes, tuple[str, str]] = {}
    keys: list[bytes] = []
    parts: list[np.ndarray] = []
    done = 0
    batches = _batches(images, engine, apart)
    hands = hands or NoHands()

    def next_batch() -> list[tuple[bytes, np.ndarray | ImageError]]:
        batch = list(_decoded(next(batches, []), engine.spec, seconds, hands))
        hands.decoded()
        return batch

    with ThreadPoolExecutor(1, "decode") as ahead:
        upcoming = ahead.submit(next_batch)
        while batch := upcoming.result():
            upcoming = ahead.submit(next_batch)
            good = [(key, pixels) for key, pixels in batch if isinstance(pixels, np.ndarray)]
            errors |= {key: (e.code, str(e)) for key, e in batch if isinstance(e, ImageError)}
            if good:
                began = time.perf_counter()
                hands.inferring([key for key, _ in good])
                found = engine.features(np.stack([pixels for _, pixels in good]))
                with np.errstate(over="ignore"):  # an overflow becomes inf, which the store refuses by name
                    parts.append(found.astype(engine.spec.dtype))
                hands.inferred()
                seconds.infer += time.perf_counter() - began
                keys += [key for key, _ in good]
            done += len(batch)
            on_batch(done)
    empty = np.empty((0, *engine.spec.shape), engine.spec.dtype)
    return Extracted(keys, np.concatenate([empty, *parts]), errors, seconds)


def _batches(
    images: Iterable[tuple[bytes, Callable[[], bytes]]], engine: Engine, apart: Container[bytes]
) -> Iterator[list[tuple[bytes, Callable[[], bytes]]]]:
    """The images in batches, which may become smaller on the way, and each of those `apart` in one of its own."""
    batch = []
    for image in images:
        if image[0] in apart:
            yield [image]
            continue
        batch.append(image)
        if len(batch) >= engine.batch_size:
            yield batch
            batch = []
    yield batch


def _decoded(
    images: Iterable[tuple[bytes, Callable[[], bytes]]], spec: FeatureSpec, seconds: StageSeconds, hands: Hands
) -> Iterator[tuple[bytes, np.ndarray | ImageError]]:
    for key, read in images:
        began = time.perf_counter()
        result: np.ndarray | ImageError
        try:
            hands.reading(key)
            data = read()
            seconds.read += time.perf_counter() - began
            began = time.perf_counter()
            hands.decoding(key)
            result = decode(data, spec.image_size, spec.exif)
        except ImageError as error:
            result = error
        seconds.decode += time.perf_counter() - began
        yield key, result
