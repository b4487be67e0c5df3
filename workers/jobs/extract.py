"""The unit of extraction for every runner: one chunk becomes one shard. Runs in a child; no Prefect here."""

import logging
import resource
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy
import pyarrow as pa
import pyarrow.compute as pc

from storage.reasons import FILE_FAULTS
from storage.schemas import DIGEST
from storage.shards.shard import AUGMENTATION, ShardRef, write_shard
from storage.text import visible
from vision.engines.engine import Engine
from vision.engines.extract import Extracted, MakeViews, Tracker, extract
from vision.pixels.variants import Variants, plain_views
from workers.jobs.files import images_of
from workers.jobs.records import ChunkResult, ChunksJob

logger = logging.getLogger(__name__)


def process_chunks(
    job: ChunksJob, engine: Engine, report: Callable[[dict], None], tracker: Tracker | None = None
) -> list[ChunkResult]:
    """Read, decode and infer the images of each chunk, and write its shard while the next chunk is inferred.

    engine: warm, and for the job's spec. report: receives a record for each batch and, from another thread, one for
    each `finished` chunk. tracker: records which images are in flight. Raises errors that stop a whole chunk: StoreDamaged,
    OSError (disk full).
    """
    results: list[ChunkResult] = []
    writing: Future[ChunkResult] | None = None
    with ThreadPoolExecutor(1, "write") as writer:
        for index in range(job.start, job.start + job.count):
            started = time.time()
            found = _extract(job, index, engine, report, tracker)
            if writing is not None:
                results.append(writing.result())
            writing = writer.submit(_finish, job, engine, found, started, report)
        results += [writing.result()] if writing else []
    return results


def _extract(
    job: ChunksJob, index: int, engine: Engine, report: Callable[[dict], None], tracker: Tracker | None
) -> Extracted:
    todo = job.chunk(index)
    apart = {bytes.fromhex(digest) for digest in job.apart}
    found = extract(
        engine,
        images_of(todo, job),
        lambda done: report({"chunk": index, "done": done}),
        tracker,
        apart,
        _view_maker(todo, job),
    )
    paths = dict(zip(todo["digest"].to_pylist(), todo["path"].to_pylist(), strict=True))
    for digest, (code, message) in found.errors.items():
        logger.warning("%s has no features (%s): %s", visible(paths[digest]), code, visible(message))
    varied = {bytes.fromhex(digest): (code, "its variants") for digest, code in job.plain_only.items()}
    found.errors |= {digest: error for digest, error in varied.items() if digest in paths.keys() - found.errors.keys()}
    return found


def try_alone(job: ChunksJob, engine: Engine, tracker: Tracker | None = None) -> str | None:
    """Extract the image `job.alone` and keep nothing. Returns the code of its fault, or None."""
    digest = bytes.fromhex(job.alone or "")
    one = job.todo.filter(pc.is_in(job.todo["digest"], pa.array([digest], DIGEST)))
    found = extract(engine, images_of(one, job), tracker=tracker, make_views=_view_maker(one, job))
    return found.errors[digest][0] if digest in found.errors else None


def _finish(
    job: ChunksJob, engine: Engine, found: Extracted, started: float, report: Callable[[dict], None]
) -> ChunkResult:
    result = _write(job, engine, found, started)
    report({"finished": asdict(result)})
    return result


def _write(job: ChunksJob, engine: Engine, found: Extracted, started: float) -> ChunkResult:
    began = time.perf_counter()
    ref = write_features(job, engine, found)
    written = {"shard": ref.name, "size_bytes": ref.size_bytes, "rows": ref.num_rows}
    return chunk_result(
        job, found, started, began, engine.name, engine.fallback, footer_checksum=ref.footer_checksum, **written
    )


def write_features(job: ChunksJob, engine: Engine, found: Extracted) -> ShardRef:
    """Write the shard of a chunk.

    FILE_FAULTS concern the file of the moment, not its bytes: such an image stays pending, and the next run retries it.
    """
    codes = {digest: code for digest, (code, _) in found.errors.items() if code not in FILE_FAULTS}
    metadata = {
        "fingerprint": job.space.fingerprint,
        "engine": engine.name,
        "batch_size": str(engine.batch_size),
        "threads": str(job.threads),
        "versions": f"numpy {numpy.__version__} pyarrow {pa.__version__}",
        AUGMENTATION: job.augmentation,
    }
    return write_shard(job.space.store, found.keys, found.features, codes, metadata, job.format, found.views)


def chunk_result(
    job: ChunksJob, found: Extracted, started: float, began: float, engine: str, fallback: str | None, **written: Any
) -> ChunkResult:
    """The result of a chunk. began: time.perf_counter() before it was written. written: the fields of the written file."""
    codes = [code for code, _ in found.errors.values()]
    return ChunkResult(
        **written,
        images=len({*found.keys, *found.errors}),
        quarantined=sum(code not in FILE_FAULTS for code in codes),
        skipped=dict(Counter(code for code in codes if code in FILE_FAULTS)),
        started=started,
        ended=time.time(),
        seconds={**asdict(found.seconds), "write": time.perf_counter() - began},
        peak_rss_mb=peak_rss_mb(),
        engine=engine,
        fallback=fallback,
        losses={loss: len(keys) for loss, keys in found.losses.items()},
        lossy={loss: visible(path_of(job, keys[0])) for loss, keys in found.losses.items()},
    )


def path_of(job: ChunksJob, digest: bytes) -> bytes:
    """The path of the first file with a digest."""
    return job.todo["path"][pc.index(job.todo["digest"], pa.scalar(digest, DIGEST)).as_py()].as_py()


def _view_maker(todo: pa.Table, job: ChunksJob) -> MakeViews:
    """The function that makes a chunk's views. If one is a variant, Keras loads now, before any image is in flight."""
    if not any(any(views) for views in todo["views"].to_pylist()):
        return plain_views
    return Variants(job.augmentation, job.threads, job.space.spec.image_size).views


def peak_rss_mb() -> float:
    """Peak resident memory of this process in MB. Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
