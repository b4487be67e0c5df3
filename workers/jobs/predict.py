"""Predict chunks of images, or images whose features the store has, and write pieces of predictions. Runs in a child."""

import base64
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Self

import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.paths import place
from storage.errors import StorageError
from storage.manifest.versions import latest_version, read_version
from storage.predictions.pieces import write_piece
from storage.reading.samples import SampleTable, sample_order, sampled
from storage.reading.stream import FeatureStream
from storage.schemas import DIGEST
from storage.shards.view_ids import plain
from storage.text import visible
from vision.engines.extract import Tracker
from workers.jobs.extract import chunk_result, path_of, peak_rss_mb, write_features
from workers.jobs.files import images_of
from workers.jobs.opened_head import open_head
from workers.jobs.predictor import Predictor
from workers.jobs.records import ChunkResult, ChunksJob, Space

logger = logging.getLogger(__name__)

READING_MB = 64  # of stored features in memory at a time
READING_BATCH = 1_000


@dataclass(frozen=True)
class PredictJob(ChunksJob):
    """Chunks whose images a head predicts. head: its name. pieces: the folder to write to. keep_features: also write shards."""

    KIND: ClassVar[str] = "predict"
    TRIAL: ClassVar[str] = "predict"

    head: str = ""
    pieces: str = ""
    keep_features: bool = False


@dataclass(frozen=True)
class StoredJob:
    """Images whose features a version of `space` has. digests: theirs, 32 bytes each, in base64. version: None is the newest."""

    space: Space
    head: str
    pieces: str
    digests: str
    version: int | None = None

    def record(self) -> dict:
        """The job as JSON types."""
        return asdict(self)

    @classmethod
    def of(cls, record: dict) -> Self:
        """From record(), also after JSON."""
        return cls(**record | {"space": Space.of(record["space"])})


@dataclass(frozen=True)
class StoredResult:
    """predicted: the number of images. lost: how many have no readable features any more, and have to be computed."""

    predicted: int
    lost: int
    peak_rss_mb: float


@lru_cache(maxsize=1)
def _predictor(root: str, head: str, space: Space, engine: str, threads: int, largest_batch: int | None) -> Predictor:
    """The predictor of this process. The engine stays loaded between the jobs of a run."""
    return Predictor(open_head(place(root), head), space, engine, threads, largest_batch)  # type: ignore[arg-type]


def _predictor_of(job: PredictJob) -> Predictor:
    space = replace(job.space, images="")  # the same predictor for every folder
    return _predictor(space.root, job.head, space, job.engine, job.threads, job.largest_batch)


def predict_chunks(
    job: PredictJob, report: Callable[[dict], None], tracker: Tracker | None = None
) -> list[ChunkResult]:
    """Predict each chunk and write its piece. report: receives a record for each batch and each `finished` chunk."""
    predictor, results = _predictor_of(job), []
    for index in range(job.start, job.start + job.count):
        results.append(_predict(job, predictor, index, report, tracker))
        report({"finished": asdict(results[-1])})
    return results


def _predict(
    job: PredictJob, predictor: Predictor, index: int, report: Callable[[dict], None], tracker: Tracker | None
) -> ChunkResult:
    started, todo = time.time(), job.chunk(index)
    apart = [bytes.fromhex(digest) for digest in job.apart]
    found = predictor.predict(images_of(todo, job), lambda done: report({"chunk": index, "done": done}), tracker, apart)
    began = time.perf_counter()
    for digest, (code, message) in found.errors.items():
        logger.warning("%s cannot be predicted (%s): %s", _shown(job, digest), code, visible(message))
    engine = predictor.engine
    if job.keep_features and engine is not None:
        write_features(job, engine, found.extracted)  # the next version that lists these images adopts the shard
    codes = {digest: code for digest, (code, _) in found.errors.items()}
    piece = write_piece(Path(job.pieces), found.keys, found.probabilities, codes)
    written = {"shard": piece.name, "size_bytes": piece.stat().st_size, "rows": len(found.keys), "footer_checksum": ""}
    fallback = engine.fallback if engine else None
    return chunk_result(job, found.extracted, started, began, predictor.engine_name, fallback, **written)


def _shown(job: PredictJob, digest: bytes) -> str:
    """The path of an image, absolute if a list named it, whose paths are all below /."""
    return ("/" if job.space.images == "/" else "") + visible(path_of(job, digest))


def try_alone(job: PredictJob, tracker: Tracker | None = None) -> str | None:
    """Predict the image `job.alone` and keep nothing. Returns the code of its fault, or None."""
    digest = bytes.fromhex(job.alone or "")
    one = job.todo.filter(pc.is_in(job.todo["digest"], pa.array([digest], DIGEST)))
    found = _predictor_of(job).predict(images_of(one, job), tracker=tracker)
    return found.errors[digest][0] if digest in found.errors else None


def predict_stored(job: StoredJob, report: Callable[[dict], None]) -> StoredResult:
    """Predict images from stored features, and write a piece for each batch. report: receives a record per batch.

    Another process may compact or collect the store meanwhile. What cannot be read any more is counted as lost.
    """
    data = base64.b64decode(job.digests)
    wanted = pa.array([data[at : at + 32] for at in range(0, len(data), 32)], DIGEST)
    predictor = _reader(job.space.root, job.head)
    done = 0
    try:
        digests, stream = _stream(job, wanted)
        place_of = 0
        for features, _ in stream.batches():
            some = digests[place_of : place_of + len(features)]
            place_of += len(features)
            write_piece(Path(job.pieces), some, predictor.probabilities(features), {})
            done += len(some)
            report({"chunk": 0, "done": done})
    except (StorageError, OSError) as error:
        logger.warning("stored features cannot be read, so their images are computed: %s", error)
    return StoredResult(done, len(wanted) - done, peak_rss_mb())


@lru_cache(maxsize=1)
def _reader(root: str, head: str):
    from vision.prediction.head import load_predicting_head

    return load_predicting_head(open_head(place(root), head).model)


def _stream(job: StoredJob, wanted: pa.Array) -> tuple[list[bytes], FeatureStream]:
    """The digests that the version has, in the order of the stream, and the stream of their features."""
    store = job.space.store
    version = read_version(store, job.version) if job.version else latest_version(store)
    if version is None:
        raise StorageError("the feature space has no version any more")
    rows = plain(version.read_rows(store))
    there = wanted.filter(pc.is_in(wanted, rows["digest"].combine_chunks()))
    files = pa.table({"digest": pa.chunked_array([there]), "class": pa.array([""] * len(there))})
    shards, samples = sampled(version, files, rows, ("",))
    order = sample_order(samples)
    table = SampleTable(samples[order], shards, ("",))
    return [there[int(at)].as_py() for at in order], FeatureStream(store, table, READING_BATCH, None, READING_MB)
