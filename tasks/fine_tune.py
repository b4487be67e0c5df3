"""Task `fine_tune`: the last blocks of the network with a trained head, in a slot of the runner that has a GPU or every core."""

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
    """Fine-tune, or find what was fine-tuned before: the store is asked, and nothing else is cached."""
    return run_training(job, on_progress, runner_name)
