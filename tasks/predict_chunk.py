"""Task `predict_chunk`: predicts several chunks of images in one slot of the runner."""

from collections.abc import Callable
from pathlib import Path

from prefect import task

from storage.planning.chunks import pack
from storage.planning.plan_files import open_todo
from tasks.caching import RETRY
from tasks.extract_chunk import SILENCE_SECONDS, logs_of
from workers.children.watchdog import Limits
from workers.devices import Slot, memory_mb_a_child
from workers.jobs.predict import PredictJob
from workers.jobs.prediction_plan import PredictionPlan
from workers.jobs.records import ChunkResult
from workers.runners.base import RunnerName
from workers.runners.isolation import Isolation
from workers.runners.running import runner


# Prefect caches nothing here: the pieces that a child writes are the cache, and a plan looks at them first.
@task(name="predict_chunk", task_run_name="predict_chunk {start}+{count}", **RETRY, cache_policy=None)
def predict_chunk(
    plan: PredictionPlan,
    start: int,
    count: int,
    slots: tuple[Slot, ...],
    engine: str,
    on_batch: Callable[[dict], None] | None = None,
    runner_name: RunnerName = "local",
) -> list[ChunkResult]:
    """Predict `count` chunks of the plan from chunk `start` on, in one slot of this process's runner.

    on_batch: receives a progress record per batch. Raises what `Isolation.run` raises.
    """
    limits = Limits(SILENCE_SECONDS, memory_mb_a_child(len(slots)))
    with runner(runner_name, slots, logs_of(plan)).lease() as lease:
        job = PredictJob(
            plan.space,
            pack(open_todo(Path(plan.path)).slice(start * plan.chunk_size, count * plan.chunk_size)),
            start,
            count,
            plan.chunk_size,
            plan.format,
            lease.slot.threads,
            engine,
            largest_batch=lease.slot.largest_batch,
            head=plan.head,
            pieces=plan.pieces,
            keep_features=plan.keep_features,
        )
        return Isolation(lease, job, on_batch or (lambda _: None), limits).run()
