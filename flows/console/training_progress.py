"""The progress of trainings."""

from collections.abc import Callable

from flows.console.messages import epoch, resumed
from flows.console.progress import Progress
from tasks.artifacts import ProgressArtifact
from vision.training.head import HeadSpec
from workers.jobs.records import HeadJob, VersionRecord


class Training:
    """Progress of one training, as its child reports it (vision/training/)."""

    def __init__(self, progress: Progress, artifact: ProgressArtifact | None = None):
        self._progress, self._artifact = progress, artifact
        self._meter = progress.meter("train", None, "steps")
        self._part = ""

    def on_progress(self, record: dict) -> None:
        """Receive a progress record of the training."""
        if "resumed" in record:
            self._progress.say(resumed(record))
            return
        if "loss" in record:
            self._progress.say(epoch(record))
            return
        part, epochs = ("train", record["epochs"]) if record["epoch"] else ("statistics", 1)
        if part != self._part:
            self._part = part
            self._meter.begin(part, epochs * record["steps"])
        done = max(0, record["epoch"] - 1) * record["steps"] + record["step"]
        self._meter.update(done)
        if record["epoch"] and self._artifact is not None:
            self._artifact.update(done / (epochs * record["steps"]))

    def end(self) -> None:
        """Mark the training as complete, since it may have stopped before its last epoch."""
        if self._artifact is not None:
            self._artifact.update(1)


class Trainings:
    """Progress of several trainings: the sum of their steps, as their children report them. A solver takes seconds and has none."""

    def __init__(self, progress: Progress, version: VersionRecord, jobs: list[HeadJob]):
        images = sum(version.classes["train"].values())
        total = sum(job.spec.epochs * _steps(job.spec, images) for job in jobs if job.spec.has_epochs)
        self._meter = progress.meter("train", total, "steps")
        self._done: dict[str, int] = {}

    def listener(self, job: HeadJob) -> Callable[[dict], None]:
        """Return the callback for the progress records of one training."""

        def on_progress(record: dict) -> None:
            if "step" in record and record["epoch"] and job.spec.has_epochs:
                self._done[job.name] = (record["epoch"] - 1) * record["steps"] + record["step"]
                self._meter.update(sum(list(self._done.values())))

        return on_progress


def _steps(spec: HeadSpec, images: int) -> int:
    return spec.steps_per_epoch or -(-images // min(spec.batch_size, images))
