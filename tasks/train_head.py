"""Task `train_head`: the head of a version, in a child process of its own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from prefect import task

from tasks.caching import RETRY, keyed
from workers.devices import Slot, available_cores, visible_gpus
from workers.jobs.records import HeadJob, HeadResult
from workers.runners.local import pool


def training_slots() -> tuple[Slot, ...]:
    """One a GPU, or one for all the cores: a training uses every one of them."""
    return tuple(Slot(gpu, available_cores()) for gpu in visible_gpus() or [None])


def logs_of(job: HeadJob) -> Path:
    return job.space.store.cache / "logs" / "training"


def _key(job: HeadJob, on_progress) -> str | None:
    return f"head-{job.name}" if job.promote == "if_better" and not job.is_forced else None


@task(
    name="train_head",
    task_run_name="train_head {job.name} (version {job.version})",
    **RETRY,
    cache_key_fn=keyed(_key),
)
def train_head(job: HeadJob, on_progress: Callable[[dict], None] | None = None) -> HeadResult:
    """Train the head, or find it where it was trained before, and promote it as the job says."""
    return in_a_child(job, on_progress)


def in_a_child(job: HeadJob, on_progress: Callable[[dict], None] | None) -> HeadResult:
    """Do the training of a job, or find what came of it, in a child that has a GPU or every core."""
    with pool(training_slots(), logs_of(job)).lease() as worker:
        job = replace(job, threads=worker.slot.threads)
        result = worker.call("head", job.record(), on_progress or (lambda _: None), None)
    return HeadResult.of(result)
