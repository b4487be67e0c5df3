"""From a stream of files to features: decode ahead, infer in batches of one fixed shape."""

import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import takewhile
from threading import Event
from typing import Protocol

import numpy as np

from vision.engines.engine import Engine
from vision.pixels.decode import ImageError, Loss, decode
from vision.pixels.variants import plain_views
from vision.specs import FeatureSpec, cut_shape

MakeViews = Callable[[np.ndarray, bytes, Sequence[int]], np.ndarray]  # pixels, key, numbers → one picture per number


@dataclass
class StageSeconds:
    """Seconds per stage. Reading and decoding run in parallel with inference."""

    read: float = 0.0
    decode: float = 0.0
    infer: float = 0.0


Image = tuple[bytes, Callable[[], bytes], Sequence[int]]  # key, reader of the file, numbers of the views to make


@dataclass
class Extracted:
    """Features of the images that could be used, and the reasons for the others.

    keys, views, features: n keys, (n,) uint16 and (n, *shape), one entry per row. Plain rows come first, then those of view
    1 and so on, each in the order of the images. The dtype is that of the spec; a cut engine gives float32, because its
    features are not stored. errors: key → (code, message). losses: a property that the pixels lost → keys of the images.
    """

    keys: list[bytes]
    views: np.ndarray
    features: np.ndarray
    errors: dict[bytes, tuple[str, str]]
    seconds: StageSeconds = field(default_factory=StageSeconds)
    losses: dict[Loss, list[bytes]] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """The views of one image that are in one batch. is_last: no later batch has views of this image."""

    key: bytes
    read: Callable[[], bytes]
    views: Sequence[int]
    is_last: bool


Decoded = tuple[Part, np.ndarray | ImageError]
Row = tuple[int, bytes, np.ndarray]  # view, key, features


class Tracker(Protocol):
    """Tracks which image is being read or decoded, and which batch is being inferred. Each call replaces the one before.

    Two threads call it for every image, so a call must be cheap compared with decoding.
    """

    def reading(self, key: bytes) -> None:
        """An image is being read. key: its digest, or any other key of `extract`."""

    def decoding(self, key: bytes) -> None:
        """An image is being decoded, or its views are made."""

    def decoded(self) -> None:
        """No image is being read or decoded."""

    def inferring(self, keys: Sequence[bytes]) -> None:
        """A batch is being inferred. keys: its images."""

    def inferred(self) -> None:
        """No batch is being inferred."""


class NoTracker:
    """Ignores every call."""

    def reading(self, key: bytes) -> None: ...

    def decoding(self, key: bytes) -> None: ...

    def decoded(self) -> None: ...

    def inferring(self, keys: Sequence[bytes]) -> None: ...

    def inferred(self) -> None: ...


@dataclass(frozen=True)
class Inferred:
    """A batch after inference. rows: those of its images that could be used. errors: the reasons for the others, key →
    (code, message). finished: number of images of which no later batch has views.
    """

    rows: list[Row]
    errors: dict[bytes, tuple[str, str]]
    finished: int


def extract(
    engine: Engine,
    images: Iterable[Image],
    on_batch: Callable[[int], None] = lambda done: None,
    tracker: Tracker | None = None,
    apart: Container[bytes] = (),
    make_views: MakeViews = plain_views,
) -> Extracted:
    """Features of the views of `images`, all at once. on_batch: receives the number of images that are done. For the rest see `infer`."""
    seconds, losses = StageSeconds(), dict[Loss, list[bytes]]()
    errors: dict[bytes, tuple[str, str]] = {}
    rows: list[Row] = []
    done = 0

    def on_loss(loss: Loss, key: bytes) -> None:
        losses.setdefault(loss, []).append(key)

    places: dict[bytes, int] = {}
    with closing(infer(engine, _in_order(images, places), make_views, tracker, apart, seconds, on_loss)) as batches:
        for batch in batches:
            rows += batch.rows
            errors |= batch.errors
            done += batch.finished
            on_batch(done)
    rows.sort(key=lambda row: (row[0], places[row[1]]))  # an image of `apart` may come before earlier ones
    features = np.stack([row for _, _, row in rows]) if rows else np.empty((0, *shape_of(engine)), dtype_of(engine))
    views = np.array([view for view, _, _ in rows], np.uint16)
    return Extracted([key for _, key, _ in rows], views, features, errors, seconds, losses)


def _in_order(images: Iterable[Image], places: dict[bytes, int]) -> Iterator[Image]:
    """The images, while `places` receives the place of each key."""
    for image in images:
        places[image[0]] = len(places)
        yield image


def infer(
    engine: Engine,
    images: Iterable[Image],
    make_views: MakeViews = plain_views,
    tracker: Tracker | None = None,
    apart: Container[bytes] = (),
    seconds: StageSeconds | None = None,
    on_loss: Callable[[Loss, bytes], None] = lambda loss, key: None,
) -> Generator[Inferred]:
    """The views of `images`, batch after batch, in the order of the images. `images` may be endless.

    A batch has a fixed number of rows, and may end between two views of an image. A thread takes the images of the next
    batch, and reads and decodes them, during inference. If the reader or the decoder raises ImageError, only the rows of
    that image are missing; other errors pass through. apart: keys of images that share their batch with no other image.
    make_views: see vision/pixels/variants.py. seconds: grows. on_loss: receives a property that the pixels of an image
    lost.
    """
    seconds, tracker = seconds or StageSeconds(), tracker or NoTracker()
    decoder = _Decoder(engine.spec, seconds, tracker, make_views, on_loss)
    # Closing joins the decoding thread before an error goes up.
    with closing(_decoded_ahead(_batches(images, engine, apart), decoder, tracker)) as batches:
        for batch in batches:
            good = [(part, pixels) for part, pixels in batch if isinstance(pixels, np.ndarray)]
            errors = {part.key: (e.code, str(e)) for part, e in batch if isinstance(e, ImageError)}
            rows = list(_inferred(engine, good, seconds, tracker)) if good else []
            yield Inferred(rows, errors, sum(part.is_last for part, _ in batch))


def _decoded_ahead(batches: Iterator[list[Part]], decoder: "_Decoder", tracker: Tracker) -> Generator[list[Decoded]]:
    """Each batch with its pixels, or the reason why there are none. A thread decodes one batch ahead."""
    is_closed = Event()

    def next_batch() -> list[Decoded]:
        parts = takewhile(lambda part: not is_closed.is_set(), next(batches, []))
        batch = [(part, decoder.pixels(part)) for part in parts]
        tracker.decoded()
        return batch

    with ThreadPoolExecutor(1, "decode") as ahead:
        try:
            upcoming = ahead.submit(next_batch)
            while batch := upcoming.result():
                upcoming = ahead.submit(next_batch)
                yield batch
        finally:
            is_closed.set()


def _inferred(
    engine: Engine, good: list[tuple[Part, np.ndarray]], seconds: StageSeconds, tracker: Tracker
) -> Iterable[Row]:
    """The rows of a batch."""
    began = time.perf_counter()
    tracker.inferring([part.key for part, _ in good])
    found = engine.features(np.concatenate([pixels for _, pixels in good]))
    with np.errstate(over="ignore"):  # an overflow becomes inf, which the store refuses by name
        found = found.astype(dtype_of(engine))
    tracker.inferred()
    seconds.infer += time.perf_counter() - began
    made = [(view, part.key) for part, _ in good for view in part.views]
    return [(view, key, row) for (view, key), row in zip(made, found, strict=True)]


def shape_of(engine: Engine) -> tuple[int, ...]:
    """The shape of one image's features."""
    return cut_shape(engine.spec, engine.before)


def dtype_of(engine: Engine) -> str:
    """The dtype of the features; see `Extracted`."""
    return "float32" if engine.before else engine.spec.dtype


def _batches(images: Iterable[Image], engine: Engine, apart: Container[bytes]) -> Iterator[list[Part]]:
    """The images in batches of `engine.batch_size` rows, which may shrink. Each image of `apart` has its own batches."""
    batch: list[Part] = []
    for key, read, views in images:
        if key in apart:
            for start in range(0, len(views), engine.batch_size):
                selected = views[start : start + engine.batch_size]
                yield [Part(key, read, selected, start + len(selected) == len(views))]
            continue
        start = 0
        while start < len(views):
            room = max(1, engine.batch_size - sum(len(part.views) for part in batch))
            selected = views[start : start + room]
            start += len(selected)
            batch.append(Part(key, read, selected, start == len(views)))
            if len(selected) == room:
                yield batch
                batch = []
    yield batch


class _Decoder:
    """Decodes each image once, even if two batches share its views, and makes the views."""

    def __init__(
        self,
        spec: FeatureSpec,
        seconds: StageSeconds,
        tracker: Tracker,
        make_views: MakeViews,
        on_loss: Callable[[Loss, bytes], None],
    ):
        self._spec, self._seconds, self._tracker, self._make_views = spec, seconds, tracker, make_views
        self._on_loss = on_loss
        self._last: tuple[bytes, np.ndarray | ImageError] | None = None

    def pixels(self, part: Part) -> np.ndarray | ImageError:
        """(views, size, size, 3) uint8 of a part, or the reason why there are none."""
        if self._last is None or self._last[0] != part.key:
            self._last = part.key, self._decoded(part)
        picture = self._last[1]
        if isinstance(picture, ImageError):
            return picture
        began = time.perf_counter()
        self._tracker.decoding(part.key)
        made = self._make_views(picture, part.key, part.views)
        self._seconds.decode += time.perf_counter() - began
        return made

    def _decoded(self, part: Part) -> np.ndarray | ImageError:
        began = time.perf_counter()
        try:
            self._tracker.reading(part.key)
            data = part.read()
            self._seconds.read += time.perf_counter() - began
            began = time.perf_counter()
            self._tracker.decoding(part.key)
            spec = self._spec
            return decode(
                data,
                spec.image_size,
                spec.exif,
                spec.sixteen_bit,
                lambda loss: self._on_loss(loss, part.key),
            )
        except ImageError as error:
            return error
        finally:
            self._seconds.decode += time.perf_counter() - began
