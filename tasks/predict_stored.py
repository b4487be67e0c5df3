"""Task `predict_stored`: predicts images whose features the store has, in one slot of the runner."""

from collections.abc import Callable

from prefect import task

from tasks.caching import RETRY
from tasks.extract_chunk import SILENCE_SECONDS, logs_of
from workers.children.watchdog import Limits
from workers.devices import Slot
from workers.jobs.predict import StoredJob, StoredResult
from workers.jobs.prediction_plan import PredictionPlan, stored_digests
from workers.runners.base import RunnerName
from workers.runners.running import runner


@task(name="predict_stored", **RETRY, cache_policy=None)
def predict_stored(
    plan: PredictionPlan,
    slots: tuple[Slot, ...],
    on_batch: Callable[[dict], None] | None = None,
    runner_name: RunnerName = "local",
) -> StoredResult:
    """Predict the images of the plan that have stored features."""
    job = StoredJob(plan.space, plan.head, plan.pieces, stored_digests(plan), plan.version)
    with runner(runner_name, slots, logs_of(plan)).lease() as lease:
        found = lease.call("predict_stored", job.record(), on_batch or (lambda _: None), Limits(SILENCE_SECONDS))
    return StoredResult(**found)
