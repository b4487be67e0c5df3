"""The small frozen records that pass between the steps, and the jobs that go to a runner: JSON in and out."""

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Literal, Self

import pyarrow as pa

from storage.backend.paths import place
from storage.classes import only
from storage.layout import Store
from storage.planning.chunks import Cut, pack, unpack
from storage.reading.stream import READ_THREADS
from storage.shards.shard import FeatureType, Format
from vision.specs import FeatureSpec
from vision.training.head import HeadSpec

Promotion = Literal["if_better", "always", "never"]


@dataclass(frozen=True)
class Space:
    """A feature space in a store, and where its images and weights come from.

    fingerprint: the hash of `spec`. weights: `imagenet`, `random` or a path. `images` and `weights` are empty in a
    space that is only read.
    """

    root: str
    images: str
    fingerprint: str
    spec: FeatureSpec
    weights: str

    @property
    def store(self) -> Store:
        """The feature space in storage."""
        return Store(place(self.root), self.fingerprint)

    @property
    def kind(self) -> FeatureType:
        """The dtype and shape of one image's features."""
        return FeatureType(self.spec.dtype, self.spec.shape)

    @classmethod
    def of(cls, record: dict) -> "Space":
        """From its fields as JSON types."""
        return cls(**record | {"spec": FeatureSpec(**record["spec"])})


@dataclass(frozen=True)
class ScanRecord:
    """A scan of the image folder. path: its file in the store's cache. digest: hash of everything that it saw.

    is_settled: every file was old enough that a later change also changes its times.
    """

    path: str
    digest: str
    images: int
    ignored: int
    is_settled: bool


@dataclass(frozen=True)
class ListingRecord:
    """A listing. path: its file in the store's cache. hashed: number of files that were read for it.

    unreadable: number of files that could not be read, including those that have vanished since the scan.
    """

    path: str
    images: int
    hashed: int
    unreadable: int


@dataclass(frozen=True)
class PlanRecord:
    """A plan for a feature space. path: its folder in the store's cache.

    parent: number of the version that the plan builds on. images: number of images to extract. rows: number of rows
    that these images get. counts: new, changed, moved, relabelled, removed, unchanged, stale, lost, adopted, ignored.
    augmentation: text of the augmentation that the planned variants belong to. findings: lines about the classes.
    """

    path: str
    space: Space
    parent: int | None
    images: int
    chunk_size: int
    format: Format
    num_chunks: int
    needs_commit: bool
    counts: dict[str, int]
    rows: int = 0
    augmentation: str = ""
    findings: tuple[str, ...] = ()
    full_chunks: int | None = None

    @property
    def cut(self) -> Cut:
        """Where the plan is cut."""
        return Cut(self.chunk_size, self.full_chunks)


@dataclass(frozen=True)
class VersionRecord:
    """A committed version: its number, counts by status, and usable images by split and class.

    findings: warnings about classes without a usable image. Only the run that commits the version has them.
    """

    number: int
    data_digest: str
    counts: dict[str, int]
    classes: dict[str, dict[str, int]]
    class_names: tuple[str, ...]
    findings: tuple[str, ...] = field(default=(), compare=False)

    def of_classes(self, names: tuple[str, ...]) -> "VersionRecord":
        """The same record, reduced to these classes."""
        return replace(self, classes=only(self.classes, names), class_names=names)


@dataclass(frozen=True)
class LoadJob:
    """Load the engine of a space, or what a training needs if there is none, so that the next job finds it loaded."""

    engine: str | None = None
    space: Space | None = None
    threads: int = 1
    largest_batch: int | None = None

    @classmethod
    def of(cls, record: dict) -> "LoadJob":
        return cls(**record | {"space": record["space"] and Space.of(record["space"])})


@dataclass(frozen=True)
class ChunksJob:
    """Extract `count` chunks of a plan, from chunk `start` on. The job has everything for that, on any machine.

    rows: the plan's rows of these chunks, packed (storage/planning/chunks.py). engine: the engine that the run has
    chosen (vision/engines). condemned: hex digest → code of images that killed a child; they are not read. plain_only:
    hex digest → code of images whose variants killed a child; only their plain rows are extracted. apart: hex digests
    of images that are inferred in batches of their own. alone: hex digest of a single image to try; its features are
    not kept. augmentation: text of the augmentation of the variants. largest_batch: images per batch
    that the memory of the slot holds; None: as many as the engine takes. KIND, TRIAL: how workers/jobs/perform.py names the
    job, and the same job with a single image.
    """

    KIND: ClassVar[str] = "chunks"
    TRIAL: ClassVar[str] = "trial"

    space: Space
    rows: str
    start: int
    count: int
    chunk_size: int
    format: Format
    threads: int
    engine: str
    condemned: dict[str, str] = field(default_factory=dict)
    plain_only: dict[str, str] = field(default_factory=dict)
    apart: tuple[str, ...] = ()
    alone: str | None = None
    augmentation: str = ""
    largest_batch: int | None = None
    full_chunks: int | None = None

    @property
    def cut(self) -> Cut:
        """Where the plan is cut."""
        return Cut(self.chunk_size, self.full_chunks)

    @cached_property
    def todo(self) -> pa.Table:
        """The rows of all chunks of the job, in TODO_SCHEMA."""
        return unpack(self.rows)

    def chunk(self, index: int) -> pa.Table:
        """The rows of chunk `index` of the plan, which must belong to this job."""
        return self.cut.rows(self.todo, index, 1, self.start)

    def rest(self, done: int) -> Self:
        """The same job without its first `done` chunks."""
        if not done:
            return self
        rows = pack(self.cut.rows(self.todo, self.start + done, self.count - done, self.start))
        return replace(self, rows=rows, start=self.start + done, count=self.count - done)

    def record(self) -> dict:
        """The job as JSON types."""
        return asdict(self)

    @classmethod
    def of(cls, record: dict) -> Self:
        """From record(), also after JSON."""
        return cls(**record | {"space": Space.of(record["space"]), "apart": tuple(record["apart"])})


@dataclass(frozen=True)
class ChunkResult:
    """The result of a chunk.

    images: number of images tried. rows: number of rows in `shard`, one per view. quarantined: number of images with
    content errors, which the shard names. skipped: code → number of images that could not be read and stay pending.
    started, ended: seconds since the epoch, from the first read with a warm engine until the shard is durable. seconds:
    by stage. engine: the engine that computed the features. fallback: why it is not the chosen one. losses: what
    decoding lost (vision/pixels/decode.py) → number of images. lossy: what decoding lost → path of one such image.
    """

    shard: str
    size_bytes: int
    rows: int
    footer_checksum: str
    images: int
    quarantined: int
    skipped: dict[str, int]
    started: float
    ended: float
    seconds: dict[str, float]
    peak_rss_mb: float
    engine: str
    fallback: str | None
    losses: dict[str, int] = field(default_factory=dict)
    lossy: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadJob:
    """Train the head of a version, or find it. name: the head's name, which is also its folder and its cache key.

    is_forced: train the head even if it exists. promote: whether it becomes the current head; `if_better` compares it
    with the current one (workers/jobs/promote.py). checkpoint_seconds: minimum seconds between checkpoints.
    read_threads: row groups read in parallel. engine, threads: of the frozen network, for a training on images. None of
    these changes the head. lacking: number of training images without all variants of the spec; `name` depends on which.
    """

    space: Space
    version: int
    name: str
    spec: HeadSpec
    seed: int
    is_forced: bool = False
    promote: Promotion = "if_better"
    checkpoint_seconds: float = 60.0
    read_threads: int = READ_THREADS
    engine: str = "tensorflow"
    threads: int = 1
    lacking: int = 0

    def record(self) -> dict:
        """The job as JSON types."""
        return asdict(self)

    @classmethod
    def of(cls, record: dict) -> "HeadJob":
        """From record(), also after JSON."""
        spec = record["spec"] | {"classes": tuple(record["spec"]["classes"])}
        return cls(**record | {"space": Space.of(record["space"]), "spec": HeadSpec(**spec)})


@dataclass(frozen=True)
class HeadResult:
    """The head of a version: figures from head.json, whether this run trained it, and whether it is the current head.

    test_accuracy, test_loss: None without test images. report: path of the report of a new head, None if it could not
    be written. promotion: why the head is or is not the current one, and how to reverse that; None if nothing was
    decided. diverged: what went wrong and what to do, in one line; None if every loss was finite. left_out: training
    samples that were too many for the solver of a logistic head. A figure that is not finite is None.
    """

    name: str
    is_new: bool
    is_promoted: bool
    epochs: int | None
    val_accuracy: float
    val_loss: float | None
    train_seconds: float
    train_samples_per_second: float
    test_accuracy: float | None = None
    test_loss: float | None = None
    report: str | None = None
    peak_rss_mb: float = 0.0
    history: tuple[dict[str, float | None], ...] = field(default=(), repr=False)
    promotion: str | None = None
    diverged: str | None = None
    left_out: int = 0

    @classmethod
    def of(cls, record: dict) -> "HeadResult":
        """From its fields as JSON types."""
        return cls(**record | {"history": tuple(record["history"])})
