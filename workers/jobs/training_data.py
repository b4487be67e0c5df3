"""The data of a training: samples of a pinned version, as stored features or computed from images. No Prefect here."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from storage.backend.atomic import make_folder
from storage.backend.paths import place
from storage.classes import only
from storage.heads.pins import pin_version
from storage.heads.registry import working_folder
from storage.manifest.versions import Version
from storage.reading.sample_files import pin_files
from storage.reading.samples import SampleTable, ViewTable, pin, pin_views
from storage.reading.stream import FeatureStream
from vision.batches import Batches, Held
from vision.engines import load_engine
from vision.engines.engine import Engine
from vision.engines.selection import FALLBACK
from vision.pixels.augmentation import Augmentation
from vision.specs import cut_shape
from vision.training.convex import SolverData, most_samples
from vision.training.feeds import TrainingData
from workers.devices import engine_copies
from workers.jobs.image_stream import ImageStream
from workers.jobs.records import HeadJob

# Reading in table order needs no shuffle buffer, and its memory adds to what training holds meanwhile. With batches of
# 32 rows the growth stays below 32 MB (benchmarks/README.md).
READING_BATCH = 32
READING_MB = 8.0


@dataclass(frozen=True)
class Samples:
    """The samples of one training by split.

    folder: holds the memory-mapped files of the tables. test: None if no image is in that split. views: the views of
    each training image, of which an epoch takes one, and a solver all; None if epochs take the plain one only.
    """

    job: HeadJob
    version: Version
    folder: Path
    training: SampleTable
    validation: SampleTable
    test: SampleTable | None
    views: ViewTable | None

    @classmethod
    def pinned(cls, job: HeadJob, version: Version) -> "Samples":
        """The samples of a version, written to memory-mapped files. The version is pinned, so that `gc` keeps it."""
        store, spec, folder = job.space.store, job.spec, working_folder(job.space.store, job.name)
        make_folder(folder)
        pin_version(store, job.name, version.number)
        training, validation = (pin(store, version, split, spec.classes, folder) for split in ("train", "validation"))
        test = (
            pin(store, version, "test", spec.classes, folder)
            if only(version.classes, spec.classes).get("test")
            else None
        )
        views = None
        if not spec.has_epochs or (spec.variants > 1 and not spec.fine_tune):
            views = pin_views(store, version, "train", spec.classes, folder, spec.augment, spec.variants)
        return cls(job, version, folder, training, validation, test, views)

    @cached_property
    def augmentation(self) -> Augmentation | None:
        """The augmentation of the training images; None if there is none."""
        return Augmentation.parse(self.job.spec.augment) if self.job.spec.augment else None

    @property
    def engine(self) -> Engine:
        """The engine that computes the frozen part of the network, on every core. TensorFlow uses all threads by itself.

        Of any other engine each core gets a single-threaded copy. It computes what the extraction computed, to the last
        bit, however many cores there are.
        """
        job, space, before = self.job, self.job.space, self.job.spec.fine_tune or None
        if job.engine == FALLBACK:
            return load_engine(job.engine, space.spec, space.weights, job.threads, before)
        placed = engine_copies(job.engine, space.spec, job.threads)
        largest_batch, copies = placed.slots[0].largest_batch, len(placed.slots)
        return load_engine(job.engine, space.spec, space.weights, 1, before, largest_batch, copies)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the model's input per image: of its features, or of the output of the network's frozen part."""
        return cut_shape(self.job.space.spec, self.job.spec.fine_tune or None)

    @property
    def dtype(self) -> str:
        """Type of the model's input."""
        return "float32" if self.job.spec.fine_tune else self.job.space.spec.dtype

    def for_training(self) -> TrainingData:
        """All batches that the training reads."""
        spec = self.job.spec
        rows = self._shuffled(self.training if self.views is None else self.views, spec.steps_per_epoch)
        from_images = spec.train_on == "images" or bool(spec.fine_tune)
        training = self._from_images(rows, "train", self.training, self.augmentation) if from_images else rows
        return TrainingData(
            self.shape,
            self.dtype,
            training,
            self._in_order(self.training),
            *self._to_validate_on(),
            rows.class_counts(),
        )

    def for_solver(self) -> SolverData:
        """Every view of every training image, as far as the solver takes them, and the validation images."""
        assert self.views is not None
        table, images = self.views.flat(most_samples(self.job.spec, self.shape))
        rows, left_out = self._in_order(table), self.views.samples.size - len(table)
        return SolverData(self.shape, rows, images, self._to_validate_on()[0], rows.class_counts(), left_out)

    def to_evaluate(self, split: str, table: SampleTable) -> Batches:
        """Every sample of a split once, in table order, as input of the model in training."""
        rows = self._in_order(table)
        return self._from_images(rows, split, table, None) if self.job.spec.fine_tune else rows

    def _to_validate_on(self) -> tuple[Batches, Batches]:
        """All validation samples in table order, and those that each epoch evaluates.

        They are held in memory if they fit into the shuffle memory. If an epoch evaluates only some batches, the seed
        draws them, because the table is sorted by shard, and so often by class.
        """
        spec = self.job.spec
        rows = self.to_evaluate("validation", self.validation)
        size = len(self.validation) * math.prod(self.shape) * np.dtype(self.dtype).itemsize
        whole: Batches = Held(tuple(rows.numbered())) if size <= spec.shuffle_memory_mb * 2**20 else rows
        if not spec.validation_steps:
            return whole, whole
        drawn = self._shuffled(self.validation, None)
        return whole, self._from_images(drawn, "validation", self.validation, None) if spec.fine_tune else drawn

    def _shuffled(self, table: SampleTable | ViewTable, steps: int | None) -> FeatureStream:
        """Samples in the order that the spec and the seed determine."""
        job, spec = self.job, self.job.spec
        with_replacement = spec.sampling == "bootstrap" and table is not self.validation
        memory_mb, threads = spec.shuffle_memory_mb, job.read_threads
        return FeatureStream(
            job.space.store, table, spec.batch_size, job.seed, memory_mb, steps, with_replacement, threads
        )

    def _in_order(self, table: SampleTable) -> FeatureStream:
        memory_mb, threads = min(self.job.spec.shuffle_memory_mb, READING_MB), self.job.read_threads
        return FeatureStream(self.job.space.store, table, READING_BATCH, None, memory_mb, read_threads=threads)

    def _from_images(
        self, rows: FeatureStream, split: str, table: SampleTable, augmentation: Augmentation | None
    ) -> ImageStream:
        space = self.job.space
        files = pin_files(space.store, self.version, split, table, self.folder)
        return ImageStream(rows, files, place(space.images), self.engine, augmentation)
