"""Combinations of trainings that differ only by their seed, and which of them to use."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from vision.study.trainings import Row


@dataclass(frozen=True)
class Cell:
    """Trainings that differ only by their seed."""

    rows: tuple[Row, ...]

    @property
    def label(self) -> str:
        return self.rows[0].label

    @property
    def has_epochs(self) -> bool:
        return self.rows[0].has_epochs

    @property
    def batch_size(self) -> int:
        return self.rows[0].batch_size

    @property
    def standardize(self) -> bool:
        return self.rows[0].standardize

    @property
    def sampling(self) -> str:
        return self.rows[0].sampling

    def mean(self, figure: str) -> float:
        """The mean of a figure of Row over the seeds."""
        return fmean(getattr(row, figure) for row in self.rows)

    @property
    def seconds(self) -> float:
        """Of a whole training, the median over the seeds."""
        return median(row.seconds for row in self.rows)

    @property
    def epoch_seconds(self) -> float:
        """The median over the seeds."""
        return median(row.epoch_seconds for row in self.rows)

    @property
    def step_ms(self) -> float:
        """The median over the seeds."""
        return median(row.step_ms for row in self.rows)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the validation accuracy between seeds; None for one seed."""
        return stdev(row.val_accuracy for row in self.rows) if len(self.rows) > 1 else None

    @property
    def standard_error(self) -> float:
        """The standard error of the mean validation accuracy: between seeds, or binomial for a single seed."""
        if self.spread is not None:
            return self.spread / math.sqrt(len(self.rows))
        accuracy = self.rows[0].val_accuracy
        return math.sqrt(accuracy * (1 - accuracy) / self.rows[0].images)


def cells(rows: Sequence[Row]) -> list[Cell]:
    """The rows by head, standardisation, sampling and batch size, in that order; heads in the order of the rows."""
    heads = list(dict.fromkeys(row.label for row in rows))
    found: dict[tuple[int, bool, bool, int], list[Row]] = {}
    for row in rows:
        key = heads.index(row.label), not row.standardize, row.sampling != "shuffle", row.batch_size
        found.setdefault(key, []).append(row)
    return [Cell(tuple(found[key])) for key in sorted(found)]


@dataclass(frozen=True)
class Advice:
    """What to use, and what to try.

    best: the highest mean validation accuracy. chosen: the shortest training among the cells within one standard error of the
    best. has_learnt: the best is better, by more than one standard error, than predicting the largest class for every
    image. rule: how the learning rate scales with the batch size, `linear` or `square root`. learning_rates: batch size →
    the scaled rate, starting from the rate of `chosen`; empty if that has no epochs.
    """

    best: Cell
    chosen: Cell
    has_learnt: bool
    rule: str
    learning_rates: dict[int, float]


def advise(rows: Sequence[Row]) -> Advice | None:
    """Advice from the rows of one optimizer and learning rate; None if a training of every combination diverged.

    The one-standard-error rule comes from Breiman et al., "Classification and Regression Trees" (1984). The learning rate
    grows linearly with the batch size for SGD (Goyal et al. 2017, arXiv:1706.02677), and with its square root for
    optimizers that divide by the size of the gradients (Malladi et al. 2022, arXiv:2205.10287). Both are rules of thumb.
    """
    all_cells = [cell for cell in cells(rows) if all(row.is_finite for row in cell.rows)]
    if not all_cells:
        return None
    best = max(all_cells, key=lambda cell: cell.mean("val_accuracy"))
    least = best.mean("val_accuracy") - best.standard_error
    chosen = min((cell for cell in all_cells if cell.mean("val_accuracy") >= least), key=lambda cell: cell.seconds)
    row = chosen.rows[0]
    rule = "linear" if row.optimizer == "sgd" else "square root"
    power = {"linear": 1.0, "square root": 0.5}[rule]
    sizes = sorted({row.batch_size for row in rows if row.has_epochs}) if row.has_epochs else []
    rates = {size: row.learning_rate * (size / row.batch_size) ** power for size in sizes}
    return Advice(best, chosen, least > row.largest_share, rule, rates)
