"""Task `measure_chunk`: measures the pictures of several chunks in one slot of the runner."""

from collections.abc import Callable

from prefect import task

from tasks.caching import RETRY
from tasks.extract_chunk import run_chunks
from workers.devices import Slot
from workers.jobs.quality import QualityJob, quality_folder
from workers.jobs.records import ChunkResult, PlanRecord
from workers.runners.base import RunnerName


# Prefect caches nothing here: the figures that a child writes are the cache, and a plan looks at them first.
@task(name="measure_chunk", task_run_name="measure_chunk {start}+{count}", **RETRY, cache_policy=None)
def measure_chunk(
    plan: PlanRecord,
    start: int,
    count: int,
    slots: tuple[Slot, ...],
    engine: str,
    on_batch: Callable[[dict], None] | None = None,
    runner_name: RunnerName = "local",
) -> list[ChunkResult]:
    """Measure `count` chunks of the plan from chunk `start` on. on_batch: receives a progress record per chunk."""
    pieces = str(quality_folder(plan.space))
    return run_chunks(plan, start, count, slots, engine, on_batch, runner_name, QualityJob, pieces=pieces)
