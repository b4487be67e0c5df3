"""From image files to class probabilities: the engine of extraction, then the head. No Prefect here."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from vision.engines import load_engine
from vision.engines.extract import Extracted, Image, NoTracker, Tracker, extract
from vision.engines.rates import known_rates
from vision.engines.selection import EngineName, choose
from vision.pixels.decode import ImageError, Loss, decode
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

    keys: of the usable images. probabilities: (n, classes) float32, a row per key. errors: key → (code, message). losses: a
    property that the pixels lost → keys.
    """

    keys: list[bytes]
    probabilities: np.ndarray
    errors: dict[bytes, tuple[str, str]]
    losses: dict[Loss, list[bytes]] = field(default_factory=dict)


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
        """space: of the head, with weights. Raises SpecError if the engine cannot compute the features, WeightsError, HeadError."""
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
        found: Extracted = extract(self.engine, images, on_batch, tracker, apart)
        return Predicted(found.keys, self.by_features(found.features), found.errors, found.losses)

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
        keys: list[bytes] = []
        rows: list[np.ndarray] = []
        errors: dict[bytes, tuple[str, str]] = {}
        losses: dict[Loss, list[bytes]] = {}
        done, rest = 0, iter(images)
        while group := list(islice(rest, WHOLE_BATCH)):
            pixels = []
            for key, read, _ in group:
                try:
                    tracker.decoding(key)
                    pixels.append(self._decoded(key, read, losses))
                    keys.append(key)
                except ImageError as error:
                    errors[key] = error.code, str(error)
            tracker.decoded()
            if pixels:
                tracker.inferring(keys[-len(pixels) :])
                rows.append(self._scorer.probabilities(np.stack(pixels)))
                tracker.inferred()
            done += len(group)
            on_batch(done)
        scores = np.concatenate(rows) if rows else np.empty((0, len(self.head.classes)), np.float32)
        return Predicted(keys, scores, errors, losses)

    def _decoded(self, key: bytes, read: Callable[[], bytes], losses: dict[Loss, list[bytes]]) -> np.ndarray:
        spec = self.head.spec
        return decode(
            read(),
            spec.image_size,
            spec.exif,
            spec.sixteen_bit,
            lambda loss: losses.setdefault(loss, []).append(key),
        )
