"""The image stream: pictures are read, decoded, augmented and sent through the frozen network as a training asks for them."""

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
from storage.text import visible
from vision.engines.engine import Engine
from vision.engines.extract import Image, MakeViews, extract
from vision.pixels.augmentation import Augmentation
from vision.pixels.variants import image_keys, plain_views
from workers.jobs.extract import read_image

logger = logging.getLogger(__name__)

Numbered = tuple[np.ndarray, np.ndarray, np.ndarray]

MOST_BATCHES = 4
MOST_GONE = 32  # pictures in succession: so many are a folder that is gone


def epoch_keys(seed: int, number: int, images: np.ndarray) -> np.ndarray:
    """Keys (n,) u64 of what is drawn for images (n,) u64 in a pass over them; images: the beginnings of their digests."""
    return mix(seed, number, AUGMENTATIONS, images)


def steps_at_a_time(batch_size: int, engine_batch: int) -> int:
    """Of how many steps the pictures go through the network together, where it computes its whole batch in any case.

    Those of which it computes the smallest part for nothing, up to MOST_BATCHES of the engine's, or of one step.
    """
    most = max(1, MOST_BATCHES * engine_batch // batch_size)
    return min(range(1, most + 1), key=lambda steps: -steps * batch_size % engine_batch / steps)


class ImageStream:
    """Batches as a FeatureStream gives them, of the same samples in the same order, from the pictures themselves.

    rows: whose order it is; nothing of it is read. files: path and digest of each sample of its table. engine: whole, or cut
    (vision/engines); a batch is (features (n, *shape), labels (n,) u16) in the dtype that `extract` gives. augmentation:
    drawn anew for each pass, by hash of the seed, the pass and the digest; None leaves the pictures as they are.

    A picture that cannot be read or decoded any more is missing from its batch, with a warning. Raises InputError where
    MOST_GONE in succession cannot be read, or none at all.
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
        """What is trained on: no batch is empty. In place of one whose pictures are all missing comes the next that has some.

        So each step has a batch, and a training that is resumed at any of them gets the same one.
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
        """What is evaluated, each sample once at most: (samples, features, labels) of an epoch's steps, some of them empty.

        samples: (n,) the places in the table of what could be read.
        """
        return self._found(self._rows.samples(epoch))

    def _found(self, steps: Iterator[tuple[int, np.ndarray]]) -> Iterator[Numbered]:
        gone: set[int] = set()  # the samples of the batches in succession of which nothing could be read
        while some := list(islice(steps, self._steps_at_a_time)):
            yield from self._read(some, gone)

    def _read(self, steps: Sequence[tuple[int, np.ndarray]], gone: set[int]) -> Iterator[Numbered]:
        """The batches of some steps, whose pictures go through the network together."""
        files = self._files.take(pa.array(np.concatenate([samples for _, samples in steps]))).to_pylist()
        # Files of equal bytes, and one that is drawn twice, are rows of their own: one of them may be gone.
        keys = [file["digest"] + place.to_bytes(4, "little") for place, file in enumerate(files)]
        passes = dict(zip(keys, (number for number, samples in steps for _ in samples), strict=True))
        images: list[Image] = [
            (key, partial(read_image, self._root, file["path"], file["digest"]), (1,))
            for key, file in zip(keys, files, strict=True)
        ]
        found = extract(self._engine, images, make_views=self._views_of(passes))
        for key, file in zip(keys, files, strict=True):
            if key in found.errors:
                self._tell(file["path"], *found.errors[key])
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
                f"none of {len(gone)} pictures could be read again ({code}: {message}); are they still there?"
            )

    def _views_of(self, passes: Mapping[bytes, int]) -> MakeViews:
        """What makes the view of a picture, by its key, of which the pass is known."""
        if self._augmentation is None:
            return plain_views
        augmentation, seed = self._augmentation, self._rows.seed or 0

        def views(pixels: np.ndarray, key: bytes, numbers: Sequence[int]) -> np.ndarray:
            from vision.pixels.augment import augmented

            draws = augmentation.draw(epoch_keys(seed, passes[key], image_keys([key])), len(pixels))
            return augmented(plain_views(pixels, key, numbers), draws, augmentation)

        return views

    def _tell(self, path: bytes, code: str, message: str) -> None:
        if path not in self._missed:
            self._missed.add(path)
            logger.warning("%s is left out, %s: %s", visible(path), code, visible(message))
