"""Task `fine_tune`: the last blocks of the network with a trained head, in a child process of its own."""

from collections.abc import Callable

from prefect import task

from tasks.caching import RETRY
from tasks.train_head import in_a_child
from workers.jobs.records import HeadJob, HeadResult


@task(name="fine_tune", task_run_name="fine_tune {job.spec.fine_tune} {job.name} (version {job.version})", **RETRY)
def fine_tune(job: HeadJob, on_progress: Callable[[dict], None] | None = None) -> HeadResult:
    """Fine-tune, or find what was fine-tuned before: the store is asked, and nothing else is cached."""
    return in_a_child(job, on_progress)
