"""The small frozen records that pass between the steps, and the jobs that go to a runner: JSON in and out."""

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Literal

import pyarrow as pa

from storage.backend.paths import place
from storage.classes import only
from storage.layout import Store
from storage.planning.chunks import chunk, pack, unpack
from storage.reading.stream import READ_THREADS
from storage.shards.shard import FeatureType, Format
from vision.specs import FeatureSpec
from vision.training.head import HeadSpec

Promotion = Literal["if_better", "always", "never"]


@dataclass(frozen=True)
class Space:
    """A feature space in a store, and where its images and weights come from.

    fingerprint: the hash of `spec`. weights: `imagenet`, `random` or a path. Both `images` and `weights` are empty
    where nothing is to be extracted.
    """

    root: str
    images: str
    fingerprint: str
    spec: FeatureSpec
    weights: str

    @property
    def store(self) -> Store:
        return Store(place(self.root), self.fingerprint)

    @property
    def kind(self) -> FeatureType:
        return FeatureType(self.spec.dtype, self.spec.shape)


@dataclass(frozen=True)
class ScanRecord:
    """A scan at `path` (a file in the store's cache) and the digest of what it saw.

    is_settled: no file was so young that it may have changed again unnoticed.
    """

    path: str
    digest: str
    images: int
    ignored: int
    is_settled: bool


@dataclass(frozen=True)
class ListingRecord:
    """A listing at `path`; hashed: how many files had to be read for it; unreadable: how many could not be.

    What has vanished since the scan could not be read either.
    """

    path: str
    images: int
    hashed: int
    unreadable: int


@dataclass(frozen=True)
class PlanRecord:
    """A plan at `path` (a folder in the store's cache) for a feature space.

    images: how many are to be extracted. parent: number of the version that the plan builds on.
    counts: new, changed, moved, relabelled, removed, unchanged, stale, lost, adopted, ignored. rows: how many rows those
    images will have. augmentation: what the variants among them are of, a text. findings: lines about the classes.
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


@dataclass(frozen=True)
class VersionRecord:
    """A committed version: its number, counts by status, and usable images by split and class.

    findings: lines about classes that the extraction showed to be unusable; who reads the version does not have them.
    """

    number: int
    data_digest: str
    counts: dict[str, int]
    classes: dict[str, dict[str, int]]
    class_names: tuple[str, ...]
    findings: tuple[str, ...] = field(default=(), compare=False)

    def of_classes(self, names: tuple[str, ...]) -> "VersionRecord":
        """What the version says of these classes alone."""
        return replace(self, classes=only(self.classes, names), class_names=names)


@dataclass(frozen=True)
class ChunksJob:
    """`count` chunks of a plan, from chunk `start` on: all that is needed to extract them, on any machine.

    rows: the rows of the plan's todo that those chunks are of, packed (storage/planning/chunks.py). engine: the one that the run has chosen (vision/engines). condemned: hex digest → code of the images that ended
    a child before: they are not touched. plain_only: the same of those of which only the variants do: their plain rows are
    extracted. apart: hex digests of images that are inferred each without others. alone:
    the one image to be tried, of which nothing is kept. augmentation: what the variants are of, a text.
    """

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

    @cached_property
    def todo(self) -> pa.Table:
        """The rows of all its chunks: TODO_SCHEMA."""
        return unpack(self.rows)

    def chunk(self, index: int) -> pa.Table:
        """The rows of the plan's chunk `index`, which is one of those of this job."""
        return chunk(self.todo, index - self.start, self.chunk_size)

    def rest(self, done: int) -> "ChunksJob":
        """The same job without its first `done` chunks."""
        if not done:
            return self
        rows = pack(self.todo.slice(done * self.chunk_size))
        return replace(self, rows=rows, start=self.start + done, count=self.count - done)

    def record(self) -> dict:
        return asdict(self)

    @classmethod
    def of(cls, record: dict) -> "ChunksJob":
        return cls(**record | {"space": _space(record["space"]), "apart": tuple(record["apart"])})


@dataclass(frozen=True)
class ChunkResult:
    """What became of a chunk.

    images: how many were tried. rows: how many rows `shard` has, one a view. quarantined: images with content errors,
    named in the shard. skipped: code → how many could not be read and stay pending. started, ended: seconds
    since the epoch, from the first read with a warm engine to the shard durable. seconds: by stage.
    engine: what computed the features. fallback: why that is not the engine that the run had chosen. losses: what of
    pictures does not show in their features (vision/pixels/decode.py) → of how many images; lossy: the path of one of them.
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
    """Train, or find, the head of a version. `name` is the head digest: cache key and folder.

    is_forced: train it though it may be there. promote: whether it becomes the current head; if_better: as
    workers/jobs/promote.py compares the two.
    checkpoint_seconds: at most so often a training keeps what it needs to go on after its death. read_threads: row
    groups read at a time. engine, threads: what sends pictures through the network, where some are trained on. None of
    these changes the head. lacking: how many training images have not all the variants that the spec asks for; the
    name says which.
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
        return asdict(self)

    @classmethod
    def of(cls, record: dict) -> "HeadJob":
        spec = record["spec"] | {"classes": tuple(record["spec"]["classes"])}
        return cls(**record | {"space": _space(record["space"]), "spec": HeadSpec(**spec)})


@dataclass(frozen=True)
class HeadResult:
    """The head of a version: what head.json says of it, and whether it was trained just now and promoted.

    test_accuracy, test_loss: None where the version has no test images. report: where that of a head that was
    trained just now lies, None where it could not be written. promotion: what decided whether it is the current head,
    and how to decide otherwise; None where there was nothing to decide. diverged: what went wrong and what to do, in one
    line, where a loss was not finite. A figure that is not finite is None.
    """

    name: str
    is_new: bool
    is_promoted: bool
    epochs: int
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

    @classmethod
    def of(cls, record: dict) -> "HeadResult":
        return cls(**record | {"history": tuple(record["history"])})


def _space(record: dict) -> Space:
    return Space(**record | {"spec": FeatureSpec(**record["spec"])})
