"""Task `extract_chunk`: extracts several chunks in one slot of the runner."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task

from storage.planning.chunks import pack
from storage.planning.plan_files import open_todo
from tasks.caching import RETRY, keyed
from workers.children.watchdog import Limits
from workers.devices import Slot, memory_mb_a_child
from workers.jobs.records import ChunkResult, ChunksJob, PlanRecord
from workers.runners.base import RunnerName
from workers.runners.isolation import Isolation
from workers.runners.running import extraction_logs, runner

# A child that is silent for this long is stuck. A batch of images takes seconds, and loading TensorFlow and the weights
# takes a minute on a slow disk.
SILENCE_SECONDS = 600.0


def _rows(plan: PlanRecord, start: int, count: int) -> pa.Table:
    return plan.cut.rows(open_todo(Path(plan.path)), start, count)


def _key(
    plan: PlanRecord, start: int, count: int, slots: tuple[Slot, ...], engine: str, on_batch, runner_name="local"
) -> str:
    """Hash of the requested rows and the feature space, so that the same work has the same key in any plan."""
    rows = _rows(plan, start, count).select(["digest", "views"])
    requested = [(row["digest"].hex(), row["views"]) for row in rows.to_pylist()]
    digest = hashlib.sha256(json.dumps([plan.augmentation, requested]).encode()).hexdigest()
    return f"chunk-{plan.space.fingerprint}-{plan.chunk_size}-{plan.format}-{digest}"


def logs_of(plan: PlanRecord) -> Path:
    return extraction_logs(plan.space.store)


@task(name="extract_chunk", task_run_name="extract_chunk {start}+{count}", **RETRY, cache_key_fn=keyed(_key))
def extract_chunk(
    plan: PlanRecord,
    start: int,
    count: int,
    slots: tuple[Slot, ...],
    engine: str,
    on_batch: Callable[[dict], None] | None = None,
    runner_name: RunnerName = "local",
) -> list[ChunkResult]:
    """Extract `count` chunks of the plan from chunk `start` on, in one slot of this process's runner.

    on_batch: receives a progress record per batch. Raises what `Isolation.run` raises.
    """
    return run_chunks(plan, start, count, slots, engine, on_batch, runner_name)


def run_chunks(
    plan: PlanRecord,
    start: int,
    count: int,
    slots: tuple[Slot, ...],
    engine: str,
    on_batch: Callable[[dict], None] | None,
    runner_name: RunnerName,
    kind: type[ChunksJob] = ChunksJob,
    **own: Any,
) -> list[ChunkResult]:
    """Run the job of some chunks in one slot. kind: of the job; own: the fields that only this kind has."""
    limits = Limits(SILENCE_SECONDS, memory_mb_a_child(len(slots)))
    with runner(runner_name, slots, logs_of(plan)).lease() as lease:
        job = kind(
            plan.space,
            pack(_rows(plan, start, count)),
            start,
            count,
            plan.chunk_size,
            plan.format,
            lease.slot.threads,
            engine,
            augmentation=plan.augmentation,
            largest_batch=lease.slot.largest_batch,
            full_chunks=plan.full_chunks,
            **own,
        )
        return Isolation(lease, job, on_batch or (lambda _: None), limits).run()
