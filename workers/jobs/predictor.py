"""From image files to class probabilities: the engine of extraction, then the head. No Prefect here."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from vision.engines import load_engine
from vision.engines.extract import Extracted, Image, NoTracker, Tracker, extract
from vision.engines.rates import known_rates
from vision.engines.selection import EngineName, choose
from vision.pixels.decode import ImageError, decode
from vision.prediction.head import PredictingHead, load_predicting_head
from workers.devices import visible_gpus
from workers.jobs.opened_head import OpenedHead
from workers.jobs.records import Space

# Features of so many images are in memory at a time: 12 MB at 224 pixels. It is a multiple of every engine's batch.
GROUP = 240
WHOLE_BATCH = 32  # images per batch of a whole Keras network, which has no engine


@dataclass(frozen=True)
class Predicted:
    """Probabilities of the images that could be used, and the reasons for the others.

    probabilities: (n, classes) float32, a row for each of `extracted.keys`. extracted: keys, features, errors and times; its features are
    empty if the head takes pixels.
    """

    probabilities: np.ndarray
    extracted: Extracted

    @property
    def keys(self) -> list[bytes]:
        return self.extracted.keys

    @property
    def errors(self) -> dict[bytes, tuple[str, str]]:
        """Key → (code, message)."""
        return self.extracted.errors


class Predictor:
    """A head and the engine that computes its features, loaded and warm. Threads may share it."""

    def __init__(
        self,
        head: OpenedHead,
        space: Space,
        engine: EngineName = "auto",
        threads: int = 1,
        largest_batch: int | None = None,
    ):
        """space: that of the head, with weights. largest_batch: see `load_engine`.

        Raises SpecError if the engine cannot compute the features, WeightsError, or HeadError.
        """
        self.head = head
        self._scorer: PredictingHead = load_predicting_head(head.model)
        self.engine = None
        if not head.is_whole:
            name = choose(engine, head.spec, bool(visible_gpus()), known_rates(head.spec))
            self.engine = load_engine(name, head.spec, space.weights, threads, None, largest_batch)

    @property
    def engine_name(self) -> str:
        """The library that computes the features, with its version."""
        return self.engine.name if self.engine else "keras"

    def predict(
        self,
        images: Iterable[Image],
        on_batch: Callable[[int], None] = lambda done: None,
        tracker: Tracker | None = None,
        apart: Sequence[bytes] = (),
    ) -> Predicted:
        """Predict images whose features fit into memory together; see `extract` for the arguments."""
        if self.engine is None:
            return self._by_pixels(images, on_batch, tracker or NoTracker())
        found = extract(self.engine, images, on_batch, tracker, apart)
        return Predicted(self.by_features(found.features), found)

    def by_features(self, features: np.ndarray) -> np.ndarray:
        """(n, *shape) features in the dtype of the store → (n, classes) float32."""
        if not len(features):
            return np.empty((0, len(self.head.classes)), np.float32)
        return self._scorer.probabilities(features)

    def in_groups(self, images: Iterable[Image]) -> Iterator[Predicted]:
        """Predict any number of images in constant memory, GROUP at a time."""
        rest = iter(images)
        while group := list(islice(rest, GROUP)):
            yield self.predict(group)

    def _by_pixels(self, images: Iterable[Image], on_batch: Callable[[int], None], tracker: Tracker) -> Predicted:
        """Predict with a network that takes pixels, WHOLE_BATCH images at a time."""
        found = Extracted([], np.empty(0, np.uint16), np.empty((0, *self.head.spec.shape), np.float32), {})
        rows, done, rest = [np.empty((0, len(self.head.classes)), np.float32)], 0, iter(images)
        while group := list(islice(rest, WHOLE_BATCH)):
            pixels = {}
            for key, read, _ in group:
                try:
                    pixels[key] = self._decoded(key, read, found, tracker)
                except ImageError as error:
                    found.errors[key] = error.code, str(error)
            tracker.decoded()
            if pixels:
                tracker.inferring(list(pixels))
                rows.append(self._scorer.probabilities(np.stack(list(pixels.values()))))
                tracker.inferred()
            found.keys.extend(pixels)
            done += len(group)
            on_batch(done)
        return Predicted(np.concatenate(rows), found)

    def _decoded(self, key: bytes, read: Callable[[], bytes], found: Extracted, tracker: Tracker) -> np.ndarray:
        spec = self.head.spec
        tracker.reading(key)
        data = read()
        tracker.decoding(key)
        return decode(
            data,
            spec.image_size,
            spec.exif,
            spec.sixteen_bit,
            lambda loss: found.losses.setdefault(loss, []).append(key),
        )
