"""Task `predict_chunk`: predicts several chunks of images in one slot of the runner."""

from collections.abc import Callable

from prefect import task

from tasks.caching import RETRY
from tasks.extract_chunk import run_chunks
from workers.devices import Slot
from workers.jobs.predict import PredictJob
from workers.jobs.prediction_plan import PredictionPlan
from workers.jobs.records import ChunkResult
from workers.runners.base import RunnerName


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
    own = {"head": plan.head, "pieces": plan.pieces, "keep_features": plan.keep_features}
    return run_chunks(plan, start, count, slots, engine, on_batch, runner_name, PredictJob, **own)
