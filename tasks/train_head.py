"""Task `train_head`: trains the head of a version, in a slot with a GPU or every core."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from prefect import task

from tasks.caching import RETRY, keyed
from workers.devices import training_slots
from workers.jobs.records import HeadJob, HeadResult
from workers.runners.base import RunnerName
from workers.runners.running import runner, training_logs


def logs_of(job: HeadJob) -> Path:
    """The folder for the logs of a training's children."""
    return training_logs(job.space.store)


def _key(job: HeadJob, on_progress, runner_name="local") -> str | None:
    return f"head-{job.name}" if job.promote == "if_better" and not job.is_forced else None


@task(
    name="train_head",
    task_run_name="train_head {job.name} (version {job.version})",
    **RETRY,
    cache_key_fn=keyed(_key),
)
def train_head(
    job: HeadJob, on_progress: Callable[[dict], None] | None = None, runner_name: RunnerName = "local"
) -> HeadResult:
    """Train the head, or find it if it was trained before, and promote it as the job says."""
    return run_training(job, on_progress, runner_name)


def run_training(
    job: HeadJob, on_progress: Callable[[dict], None] | None, runner_name: RunnerName = "local"
) -> HeadResult:
    """Run a training job, or find its result, in a slot with a GPU or every core."""
    with runner(runner_name, training_slots(), logs_of(job)).lease() as lease:
        job = replace(job, threads=lease.slot.threads)
        result = lease.call("head", job.record(), on_progress or (lambda _: None))
    return HeadResult.of(result)
