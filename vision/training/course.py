"""Track the progress and the figures of a training, step by step."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vision.training.checkpoint import Checkpoint, put_back, values
from vision.training.head import HeadSpec
from vision.training.step_log import StepLog, keep_rows

REPORT_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Divergence:
    """Where a loss stopped being finite, both counted from 1. step: None if it is the validation loss."""

    epoch: int
    step: int | None = None


class Diverged(ArithmeticError):
    """Ends `fit` at once, because validating broken weights is useless."""


class Pace:
    """Reports at most once per second."""

    def __init__(self, report: Callable[[dict], None]):
        self._report = report
        self._reported = time.monotonic()

    def report(self, record: dict) -> None:
        """Report the record, unless another one was reported within the last second."""
        if time.monotonic() - self._reported > REPORT_EVERY_SECONDS:
            self._reported = time.monotonic()
            self._report(record)


class Course:
    """Position, losses and history of a training, updated by callbacks of Keras.

    epoch, step: of the next step, counted from 0.
    """

    def __init__(
        self,
        spec: HeadSpec,
        steps: int,
        log_folder: Path,
        report: Callable[[dict], None],
        checkpoint: Checkpoint | None,
    ):
        self.epoch = checkpoint.epoch if checkpoint else spec.initial_epoch
        self.step = checkpoint.step if checkpoint else 0
        before = checkpoint.record if checkpoint else {}
        self.history: list[dict[str, float]] = before.get("history", [])
        self.epoch_seconds: list[float] = before.get("epoch_seconds", [])
        self.samples: int = before.get("samples", 0)
        self.start: dict[str, float] | None = before.get("start")
        self.diverged: Divergence | None = None
        self._losses: list[float] = before.get("losses", [])  # (loss sum, samples) of the epoch so far
        self._began = time.perf_counter() - before.get("seconds", 0.0)
        self._epoch_before: float = before.get("seconds_of_epoch", 0.0)
        self._resumed = checkpoint if self.step else None
        self.epochs, self.steps, self._report, self._pace = spec.epochs, steps, report, Pace(report)
        keep_rows(log_folder / "epochs.csv", lambda row: int(row[0]) < self.epoch)
        self.log = StepLog(log_folder / "steps.csv", self.epoch, self.step)

    @property
    def seconds(self) -> float:
        """Seconds of training, including those before it was resumed."""
        return time.perf_counter() - self._began

    @property
    def is_between_epochs(self) -> bool:
        return self.step in (0, self.steps)

    def record(self) -> dict[str, Any]:
        """The figures so far, in the form of a checkpoint."""
        return {
            "history": self.history,
            "epoch_seconds": self.epoch_seconds,
            "samples": self.samples,
            "losses": self._losses if self.step else [],
            "seconds": self.seconds,
            "seconds_of_epoch": self._seconds_of_epoch if self.step else 0.0,
            "start": self.start,
        }

    def begin_epoch(self, model, epoch: int) -> None:
        """Restore the metrics of an interrupted epoch, which Keras has just reset."""
        self.epoch = epoch
        self._loss = next(metric for metric in model.metrics if metric.name == "loss")
        if self._resumed is not None:
            put_back(model, self._resumed, "metrics")
            self._resumed = None
        else:
            self.step, self._losses, self._epoch_before = 0, [], 0.0
        self._losses = self._losses or [0.0, 0.0]
        self._epoch_began = time.perf_counter()

    def begin_step(self) -> None:
        """Reset the loss to that of the next step."""
        self._loss.reset_state()  # Keras computes the mean over the epoch; this gives the loss of a single step

    def end_step(self, logs: dict[str, float]) -> None:
        """Record a step. Raises Diverged if its loss is not finite."""
        total, count = (float(variable.numpy()) for variable in self._loss.variables)
        self._losses = [self._losses[0] + total, self._losses[1] + count]
        self.samples += round(count)
        self.log.add(self.epoch, self.step, float(logs["loss"]))
        self.step += 1
        self._seconds_of_epoch = self._epoch_before + time.perf_counter() - self._epoch_began
        place = {"epoch": self.epoch + 1, "epochs": self.epochs, "step": self.step, "steps": self.steps}
        if not math.isfinite(total):
            self.diverged = Divergence(self.epoch + 1, self.step)
            self._keep_figures(dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), math.nan))
            raise Diverged
        self._pace.report(place)

    def check_validation(self, logs: dict[str, float]) -> None:
        """Stop the training after an epoch whose validation loss is not finite."""
        if not math.isfinite(logs["val_loss"]):
            self.diverged = Divergence(self.epoch)
            raise Diverged

    def end_epoch(self, model, logs: dict[str, float]) -> None:
        """Replace Keras' loss, which is that of the last step, by the mean of the epoch for all later callbacks.

        If a weight is not finite, the validation loss becomes NaN, because TensorFlow's relu turns NaN into numbers.
        """
        total, count = self._losses
        logs["loss"] = total / count if count else math.nan
        if not all(np.isfinite(values(variable)).all() for variable in model.trainable_variables):
            logs["val_loss"] = math.nan
        self._keep_figures(logs)

    def _keep_figures(self, logs: dict[str, float]) -> None:
        self.history.append({name: float(value) for name, value in logs.items()})
        self.epoch_seconds.append(self._seconds_of_epoch)
        self.log.flush()
        self._report({"epoch": self.epoch + 1, "epochs": self.epochs, **self.history[-1]})
        self.epoch, self.step = self.epoch + 1, 0
