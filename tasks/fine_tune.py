"""Task `fine_tune`: trains the last blocks of the network with a trained head, in a slot with a GPU or every core."""

from collections.abc import Callable

from prefect import task

from tasks.caching import RETRY
from tasks.train_head import run_training
from workers.jobs.records import HeadJob, HeadResult
from workers.runners.base import RunnerName


@task(name="fine_tune", task_run_name="fine_tune {job.spec.fine_tune} {job.name} (version {job.version})", **RETRY)
def fine_tune(
    job: HeadJob, on_progress: Callable[[dict], None] | None = None, runner_name: RunnerName = "local"
) -> HeadResult:
    """Fine-tune the network, or find it in the store if that was done before. Nothing else is cached."""
    return run_training(job, on_progress, runner_name)
