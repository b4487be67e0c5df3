"""The image stream reads, decodes and augments images and sends them through the frozen network, on demand."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import count as numbers
from itertools import repeat

import numpy as np
import pyarrow as pa

from storage.backend.paths import Place
from storage.errors import InputError
from storage.reading.order import AUGMENTATIONS, mix
from storage.reading.stream import FeatureStream
from storage.text import count, visible
from vision.engines.engine import Engine
from vision.engines.extract import Image, dtype_of, infer, shape_of
from vision.pixels.augmentation import Augmentation
from vision.pixels.variants import image_keys, plain_views
from workers.jobs.files import read_image

logger = logging.getLogger(__name__)

Numbered = tuple[np.ndarray, np.ndarray, np.ndarray]
DIGEST_BYTES, NUMBER_BYTES = 32, 8

MOST_GONE = 32  # images; this many missing in succession mean that the folder is gone


def epoch_keys(seed: int, number: int, images: np.ndarray) -> np.ndarray:
    """Keys (n,) u64 of the random draws for images in pass `number`. images: (n,) u64, the starts of their digests."""
    return mix(seed, number, AUGMENTATIONS, images)


@dataclass(frozen=True)
class Step:
    """A step whose images are on their way to the network. keys, paths: one per sample."""

    samples: np.ndarray
    keys: list[bytes]
    paths: list[bytes]


def _key(digest: bytes, number: int, image: int) -> bytes:
    """The key of an image in pass `number`. image: its number in the stream.

    Files of equal bytes, and a file that is drawn twice, have keys of their own, because one of them may be gone.
    """
    return digest + number.to_bytes(NUMBER_BYTES, "little") + image.to_bytes(NUMBER_BYTES, "little")


def _pass_of(key: bytes) -> int:
    return int.from_bytes(key[DIGEST_BYTES : DIGEST_BYTES + NUMBER_BYTES], "little")


class ImageStream:
    """Batches of the same samples in the same order as a FeatureStream, computed from the images themselves.

    A batch is (features (n, *shape), labels (n,) u16); features have the dtype that `extract` returns. rows: gives the
    order; its features are not read. files: path and digest of each sample of its table. engine: whole or cut
    (vision/engines). Its batches are full, except the last, because it computes whole ones in any case. augmentation:
    drawn anew for each pass, by a hash of seed, pass and digest; None: images stay as they are.

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
        """The batches of some steps. A batch of the engine has the images of several steps, or only some of one."""
        read = deque[Step]()  # steps whose images are on their way, in order; the decoding thread appends to them
        rows: dict[bytes, np.ndarray] = {}
        errors: dict[bytes, tuple[str, str]] = {}
        gone: set[int] = set()  # samples of the latest successive batches without a readable image
        finished = 0
        with closing(infer(self._engine, self._images(steps, read), self._make_views)) as batches:
            for batch in batches:
                rows |= {key: row for _, key, row in batch.rows}
                errors |= batch.errors
                finished += batch.finished
                while read and finished >= len(read[0].keys):
                    step = read.popleft()
                    finished -= len(step.keys)
                    yield self._batch(step, rows, errors, gone)

    def _images(self, steps: Iterator[tuple[int, np.ndarray]], read: deque[Step]) -> Iterator[Image]:
        """The images of the steps, each under a key of its own. Each step is put into `read` before its images."""
        images = numbers()
        for number, samples in steps:
            files = self._files.take(pa.array(samples)).to_pylist()
            keys = [_key(file["digest"], number, next(images)) for file in files]
            read.append(Step(samples, keys, [file["path"] for file in files]))
            for key, file in zip(keys, files, strict=True):
                yield key, partial(read_image, self._root, file["path"], file["digest"]), (1,)

    def _batch(
        self, step: Step, rows: dict[bytes, np.ndarray], errors: dict[bytes, tuple[str, str]], gone: set[int]
    ) -> Numbered:
        """The batch of a step, whose images leave `rows` and `errors`."""
        reasons = [errors.pop(key, None) for key in step.keys]
        for path, reason in zip(step.paths, reasons, strict=True):
            if reason:
                self._warn_once(path, *reason)
        found = [rows.pop(key) for key in step.keys if key in rows]
        if found:
            gone.clear()
        elif reasons[0]:
            gone.update(step.samples.tolist())
            self._check(gone, *reasons[0])
        features = np.stack(found) if found else np.empty((0, *shape_of(self._engine)), dtype_of(self._engine))
        samples = step.samples[[reason is None for reason in reasons]]
        return samples, features, self._rows.labels(samples)

    def _check(self, gone: set[int], code: str, message: str) -> None:
        if len(gone) >= min(MOST_GONE, len(self._rows.table)):
            raise InputError(
                f"{count(len(gone), 'image')} in succession could not be read ({code}: {message}); "
                "check that the image folder is still complete"
            )

    def _make_views(self, pixels: np.ndarray, key: bytes, views: Sequence[int]) -> np.ndarray:
        """The view of an image; see vision/pixels/variants.py."""
        picture = plain_views(pixels, key, views)
        if self._augmentation is None:
            return picture
        from vision.pixels.augment import augmented

        keys = epoch_keys(self._rows.seed or 0, _pass_of(key), image_keys([key]))
        return augmented(picture, self._augmentation.draw(keys, len(pixels)), self._augmentation)

    def _warn_once(self, path: bytes, code: str, message: str) -> None:
        if path not in self._missed:
            self._missed.add(path)
            logger.warning("%s is left out (%s): %s", visible(path), code, visible(message))
