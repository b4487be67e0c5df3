"""Task `extract_chunk`: a batch of chunks through a leased child process."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from prefect import task

from storage.planning.plan_files import open_todo
from tasks.caching import RETRY, keyed
from workers.children.watchdog import Limits
from workers.devices import Slot, memory_mb_a_child
from workers.jobs.records import ChunkResult, ChunksJob, PlanRecord
from workers.runners.isolation import Isolation
from workers.runners.local import pool

# A child that has said nothing for so long is stuck: a batch of images takes seconds, loading
# TensorFlow and the weights a minute on a slow disk.
SILENCE_SECONDS = 600.0


def _key(plan: PlanRecord, start: int, count: int, slots: tuple[Slot, ...], engine: str, on_batch) -> str:
    """Hash of the rows that are wanted and the feature space: the same work has the same key in any plan."""
    todo = open_todo(Path(plan.path)).slice(start * plan.chunk_size, count * plan.chunk_size)
    wanted = [(row["digest"].hex(), row["views"]) for row in todo.select(["digest", "views"]).to_pylist()]
    digest = hashlib.sha256(json.dumps([plan.augmentation, wanted]).encode()).hexdigest()
    return f"chunk-{plan.space.fingerprint}-{plan.chunk_size}-{plan.format}-{digest}"


def logs_of(plan: PlanRecord) -> Path:
    """Where the children of an extraction write what they have to say."""
    return plan.space.store.cache / "logs" / "extraction"


@task(name="extract_chunk", task_run_name="extract_chunk {start}+{count}", **RETRY, cache_key_fn=keyed(_key))
def extract_chunk(
    plan: PlanRecord,
    start: int,
    count: int,
    slots: tuple[Slot, ...],
    engine: str,
    on_batch: Callable[[dict], None] | None = None,
) -> list[ChunkResult]:
    """Extract `count` chunks of the plan from chunk `start` on, in one child of this process's pool."""
    limits = Limits(memory_mb_a_child(len(slots)))
    with pool(slots, logs_of(plan)).lease() as worker:
        threads = worker.slot.threads
        job = ChunksJob(
            plan.space,
            plan.path,
            start,
            count,
            plan.chunk_size,
            plan.format,
            threads,
            engine,
            augmentation=plan.augmentation,
        )
        return Isolation(worker, job, on_batch or (lambda _: None), SILENCE_SECONDS, limits).run()
