"""Write checkpoints when they are due."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vision.training.checkpoint import state
from vision.training.course import Course
from vision.training.statistics import Statistics


@dataclass(frozen=True)
class Keeping:
    """How checkpoints are kept. write: gets epoch, step, the arrays one by one and the record (checkpoint.py).

    every_seconds: the shortest time between two checkpoints, each after an epoch or between two steps.
    """

    write: Callable[[int, int, Iterable[tuple[str, np.ndarray]], dict[str, Any]], None]
    every_seconds: float = 60.0


class Keeper:
    """Writes checkpoints of a training."""

    def __init__(self, keeping: Keeping | None, course: Course, best, statistics: Statistics | None):
        self._keeping, self._course, self._best, self._statistics = keeping, course, best, statistics
        self._kept = time.monotonic()

    def after_step(self, model) -> None:
        """Write a checkpoint between two steps, if one is due."""
        if not self._course.is_between_epochs:  # after the last step, `after_epoch` writes it with the validation
            self._keep(model)

    def after_epoch(self, model) -> None:
        """Write a checkpoint after an epoch, if one is due and training goes on."""
        if not model.stop_training:
            self._keep(model)

    def _keep(self, model) -> None:
        if self._keeping is None or time.monotonic() - self._kept < self._keeping.every_seconds:
            return
        course = self._course
        course.log.flush()
        arrays = state(model, self._best.best_weights, self._statistics)
        self._keeping.write(course.epoch, course.step, arrays, course.record() | {"best": self._best.record})
        self._kept = time.monotonic()
