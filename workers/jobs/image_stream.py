"""The image stream reads, decodes and augments images and sends them through the frozen network, on demand."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, repeat

import numpy as np
import pyarrow as pa

from storage.backend.paths import Place
from storage.errors import InputError
from storage.reading.order import AUGMENTATIONS, mix
from storage.reading.stream import FeatureStream
from storage.text import count, visible
from vision.engines.engine import Engine
from vision.engines.extract import Image, MakeViews, extract
from vision.pixels.augmentation import Augmentation
from vision.pixels.variants import image_keys, plain_views
from workers.jobs.files import read_image

logger = logging.getLogger(__name__)

Numbered = tuple[np.ndarray, np.ndarray, np.ndarray]

MOST_BATCHES = 4
MOST_GONE = 32  # images; this many missing in succession mean that the folder is gone


def epoch_keys(seed: int, number: int, images: np.ndarray) -> np.ndarray:
    """Keys (n,) u64 of the random draws for images in pass `number`. images: (n,) u64, the starts of their digests."""
    return mix(seed, number, AUGMENTATIONS, images)


def steps_at_a_time(batch_size: int, engine_batch: int) -> int:
    """Number of steps whose images go through the network together, since the engine always computes whole batches.

    The number with the least padding per step wins, among those that fit into MOST_BATCHES of the engine's batches.
    One step is always allowed.
    """
    most = max(1, MOST_BATCHES * engine_batch // batch_size)
    return min(range(1, most + 1), key=lambda steps: -steps * batch_size % engine_batch / steps)


class ImageStream:
    """Batches of the same samples in the same order as a FeatureStream, computed from the images themselves.

    A batch is (features (n, *shape), labels (n,) u16); features have the dtype that `extract` returns. rows: gives the
    order; its features are not read. files: path and digest of each sample of its table. engine: whole or cut
    (vision/engines). augmentation: drawn anew for each pass, by a hash of seed, pass and digest; None: images stay as
    they are.

    An image that can no longer be read or decoded is missing from its batch, with a warning. Raises InputError if
    MOST_GONE in succession, or all of them, cannot be read.
    """

    def __init__(
        self, rows: FeatureStream, files: pa.Table, root: Place, engine: Engine, augmentation: Augmentation | None
    ):
        self._rows, self._files, self._root = rows, files, root
        self._engine, self._augmentation = engine, augmentation
        self._missed: set[bytes] = set()
        self.steps = rows.steps
        self._steps_at_a_time = steps_at_a_time(rows.batch_size, engine.batch_size)

    def batches(
        self, epoch: int = 0, first_step: int = 0, *, epochs: int | None = 1
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches to train on; none is empty. The next batch with images replaces one whose images are all missing.

        Each step therefore has a batch, and a training that resumes at any step gets the same one.
        """
        lost = 0
        for _, *batch in self._found(self._rows.samples(epoch, first_step, epochs=epochs)):
            lost += 1
            if len(batch[1]):
                yield from repeat(tuple(batch), lost)
                lost = 0
        if lost:
            after = self._found(self._rows.samples(epoch + (epochs or 0), epochs=None))
            yield from repeat(next((features, labels) for _, features, labels in after if len(labels)), lost)

    def numbered(self, epoch: int = 0) -> Iterator[Numbered]:
        """Batches to evaluate, each sample at most once: (samples, features, labels) per step of an epoch.

        samples: (n,) positions in the table of the images that could be read. A batch may be empty.
        """
        return self._found(self._rows.samples(epoch))

    def _found(self, steps: Iterator[tuple[int, np.ndarray]]) -> Iterator[Numbered]:
        gone: set[int] = set()  # samples of the latest successive batches without a readable image
        while some := list(islice(steps, self._steps_at_a_time)):
            yield from self._read(some, gone)

    def _read(self, steps: Sequence[tuple[int, np.ndarray]], gone: set[int]) -> Iterator[Numbered]:
        """The batches of some steps, whose images go through the network together."""
        files = self._files.take(pa.array(np.concatenate([samples for _, samples in steps]))).to_pylist()
        # Files of equal bytes, and a file that is drawn twice, get rows of their own, because one of them may be gone.
        keys = [file["digest"] + place.to_bytes(4, "little") for place, file in enumerate(files)]
        passes = dict(zip(keys, (number for number, samples in steps for _ in samples), strict=True))
        images: list[Image] = [
            (key, partial(read_image, self._root, file["path"], file["digest"]), (1,))
            for key, file in zip(keys, files, strict=True)
        ]
        found = extract(self._engine, images, make_views=self._views_of(passes))
        for key, file in zip(keys, files, strict=True):
            if key in found.errors:
                self._warn_once(file["path"], *found.errors[key])
        rows = {key: row for row, key in enumerate(found.keys)}
        for _, samples in steps:
            mine, keys = keys[: len(samples)], keys[len(samples) :]
            there = np.array([key in rows for key in mine])
            if there.any():
                gone.clear()
            else:
                gone.update(samples.tolist())
                self._check(gone, *found.errors[mine[0]])
            features = found.features[[rows[key] for key in mine if key in rows]]
            yield samples[there], features, self._rows.labels(samples)[there]

    def _check(self, gone: set[int], code: str, message: str) -> None:
        if len(gone) >= min(MOST_GONE, len(self._rows.table)):
            raise InputError(
                f"{count(len(gone), 'image')} in succession could not be read ({code}: {message}); "
                "check that the image folder is still complete"
            )

    def _views_of(self, passes: Mapping[bytes, int]) -> MakeViews:
        """The function that makes the view of an image. passes: key of the image → number of the pass."""
        if self._augmentation is None:
            return plain_views
        augmentation, seed = self._augmentation, self._rows.seed or 0

        def views(pixels: np.ndarray, key: bytes, numbers: Sequence[int]) -> np.ndarray:
            from vision.pixels.augment import augmented

            draws = augmentation.draw(epoch_keys(seed, passes[key], image_keys([key])), len(pixels))
            return augmented(plain_views(pixels, key, numbers), draws, augmentation)

        return views

    def _warn_once(self, path: bytes, code: str, message: str) -> None:
        if path not in self._missed:
            self._missed.add(path)
            logger.warning("%s is left out (%s): %s", visible(path), code, visible(message))
