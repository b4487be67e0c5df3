"""From a stream of files to features: decode ahead, infer in batches of one fixed shape."""

import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from vision.engines.engine import Engine
from vision.pixels.decode import ImageError, Loss, decode
from vision.pixels.variants import plain_views
from vision.specs import FeatureSpec, cut_shape

MakeViews = Callable[[np.ndarray, bytes, Sequence[int]], np.ndarray]  # pixels, key and numbers → a picture a number


@dataclass
class StageSeconds:
    """Where the time went; reading and decoding run beside inference."""

    read: float = 0.0
    decode: float = 0.0
    infer: float = 0.0


Image = tuple[bytes, Callable[[], bytes], Sequence[int]]  # its key, what reads its file, and the views that are wanted


@dataclass
class Extracted:
    """Features of the images that could be used, and why the others could not.

    keys, views, features: of n rows, (n,) uint16 and (n, *shape) in the dtype of the spec, or, of a cut engine, in float32,
    as what is not stored; plain rows first, then those of view 1 and so on, each in the order in which the images came.
    errors: key → (code, message). losses: what does not show in the pixels → the keys of such images.
    """

    keys: list[bytes]
    views: np.ndarray
    features: np.ndarray
    errors: dict[bytes, tuple[str, str]]
    seconds: StageSeconds = field(default_factory=StageSeconds)
    losses: dict[Loss, list[bytes]] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What is inferred of an image in one batch: some of its views, the last of them or not."""

    key: bytes
    read: Callable[[], bytes]
    views: Sequence[int]
    is_last: bool


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
    images: Iterable[Image],
    on_batch: Callable[[int], None] = lambda done: None,
    hands: Hands | None = None,
    apart: Container[bytes] = (),
    make_views: MakeViews = plain_views,
) -> Extracted:
    """Features of the views of `images`; a batch is of so many rows, and may end between two views of an image.

    The next batch is read and decoded in a thread while one is inferred. A file that cannot be read or
    decoded, as an ImageError of its reader or of the decoder says, costs its own rows only; anything
    else passes through. `on_batch` is told how many images are done. apart: keys that are inferred each without others.
    make_views: what makes views of an image's pixels (vision/pixels/variants.py).
    """
    seconds, hands = StageSeconds(), hands or NoHands()
    shape, dtype = cut_shape(engine.spec, engine.before), "float32" if engine.before else engine.spec.dtype
    errors: dict[bytes, tuple[str, str]] = {}
    rows: list[tuple[int, bytes, np.ndarray]] = []
    done = 0
    batches = _batches(images, engine, apart)
    decoder = _Decoder(engine.spec, seconds, hands, make_views)

    def next_batch() -> list[tuple[Part, np.ndarray | ImageError]]:
        batch = [(part, decoder.pixels(part)) for part in next(batches, [])]
        hands.decoded()
        return batch

    with ThreadPoolExecutor(1, "decode") as ahead:
        upcoming = ahead.submit(next_batch)
        while batch := upcoming.result():
            upcoming = ahead.submit(next_batch)
            good = [(part, pixels) for part, pixels in batch if isinstance(pixels, np.ndarray)]
            errors |= {part.key: (e.code, str(e)) for part, e in batch if isinstance(e, ImageError)}
            if good:
                began = time.perf_counter()
                hands.inferring([part.key for part, _ in good])
                found = engine.features(np.concatenate([pixels for _, pixels in good]))
                with np.errstate(over="ignore"):  # an overflow becomes inf, which the store refuses by name
                    found = found.astype(dtype)
                hands.inferred()
                seconds.infer += time.perf_counter() - began
                made = [(view, part.key) for part, _ in good for view in part.views]
                rows += [(view, key, row) for (view, key), row in zip(made, found, strict=True)]
            done += sum(part.is_last for part, _ in batch)
            on_batch(done)
    rows.sort(key=lambda row: row[0])  # which leaves the images of a view as they came
    features = np.stack([row for _, _, row in rows]) if rows else np.empty((0, *shape), dtype)
    views = np.array([view for view, _, _ in rows], np.uint16)
    return Extracted([key for _, key, _ in rows], views, features, errors, seconds, decoder.losses)


def _batches(images: Iterable[Image], engine: Engine, apart: Container[bytes]) -> Iterator[list[Part]]:
    """The images in batches of rows, which may become smaller on the way, and each of those `apart` in its own."""
    batch: list[Part] = []
    for key, read, views in images:
        if key in apart:
            for start in range(0, len(views), engine.batch_size):
                some = views[start : start + engine.batch_size]
                yield [Part(key, read, some, start + len(some) == len(views))]
            continue
        start = 0
        while start < len(views):
            room = max(1, engine.batch_size - sum(len(part.views) for part in batch))
            some = views[start : start + room]
            start += len(some)
            batch.append(Part(key, read, some, start == len(views)))
            if len(some) == room:
                yield batch
                batch = []
    yield batch


class _Decoder:
    """Decodes each image once, though its views may be in two batches, and makes the views."""

    def __init__(self, spec: FeatureSpec, seconds: StageSeconds, hands: Hands, make_views: MakeViews):
        self._spec, self._seconds, self._hands, self._make_views = spec, seconds, hands, make_views
        self.losses: dict[Loss, list[bytes]] = {}
        self._last: tuple[bytes, np.ndarray | ImageError] | None = None

    def pixels(self, part: Part) -> np.ndarray | ImageError:
        """(views, size, size, 3) uint8 of a part, or why there are none."""
        if self._last is None or self._last[0] != part.key:
            self._last = part.key, self._decoded(part)
        picture = self._last[1]
        if isinstance(picture, ImageError):
            return picture
        began = time.perf_counter()
        self._hands.decoding(part.key)
        made = self._make_views(picture, part.key, part.views)
        self._seconds.decode += time.perf_counter() - began
        return made

    def _decoded(self, part: Part) -> np.ndarray | ImageError:
        began = time.perf_counter()
        try:
            self._hands.reading(part.key)
            data = part.read()
            self._seconds.read += time.perf_counter() - began
            began = time.perf_counter()
            self._hands.decoding(part.key)
            spec = self._spec
            return decode(
                data,
                spec.image_size,
                spec.exif,
                spec.sixteen_bit,
                lambda loss: self.losses.setdefault(loss, []).append(part.key),
            )
        except ImageError as error:
            return error
        finally:
            self._seconds.decode += time.perf_counter() - began
