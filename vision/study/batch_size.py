"""Trainings that differ by batch size and seed: one row each, and advice that uses only these rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

import numpy as np

from vision.training.head import LEARNING_RATES

# A training diverged if its last loss is over this multiple of its first epoch's, and over that of a constant prediction.
GROWTH = 2.0
# A validation loss of at least this part of that of a constant prediction is no better than a constant.
NEAR = 0.95


@dataclass(frozen=True)
class Row:
    """One training. Figures belong to the kept epoch (lowest validation loss), or to the last one if named `last`.

    batch_size: the effective one, at most the number of training images. learning_rate: the effective one. steps: per
    epoch. kept_epoch: counts from 1; 0 if no epoch had a finite validation loss, so that the initial weights were kept.
    images: of the validation split. largest_share: the share of its largest class. epoch_seconds, step_ms: the training
    part of an epoch, see `row_of`. faults: what went wrong, in words.
    """

    head: str
    batch_size: int
    seed: int
    standardize: bool
    sampling: str
    optimizer: str
    learning_rate: float
    epochs: int
    steps: int
    kept_epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    last_loss: float
    last_accuracy: float
    last_val_loss: float
    last_val_accuracy: float
    images: int
    largest_share: float
    epoch_seconds: float
    step_ms: float
    faults: tuple[str, ...]

    @property
    def is_finite(self) -> bool:
        """Whether every loss of the training was a finite number."""
        return all(map(math.isfinite, (self.val_loss, self.last_loss, self.last_val_loss)))


def row_of(name: str, record: dict) -> Row:
    """The row of a head, from its head.json.

    epoch_seconds: the median of the epochs' times without the first, which includes the tracing of the graph. A head
    without these times gives its whole training time, with statistics and validation, divided by its epochs.
    """
    spec, history, metrics = record["head"], [_numbers(logs) for logs in record["history"]], _numbers(record["metrics"])
    samples = record["samples"]["train"]
    batch_size = min(spec["batch_size"], samples)
    steps = spec["steps_per_epoch"] or math.ceil(samples / batch_size)
    kept, last = _kept_epoch(history), history[-1]
    of_kept = history[kept - 1] if kept else {"loss": math.nan, "accuracy": math.nan}
    seconds, confusion = _epoch_seconds(record), np.asarray(record["confusion"])
    return Row(
        head=name,
        batch_size=batch_size,
        seed=record["seed"],
        standardize=spec["standardize"],
        sampling=spec["sampling"],
        optimizer=spec["optimizer"],
        learning_rate=spec["learning_rate"] or LEARNING_RATES[spec["optimizer"]],
        epochs=len(history),
        steps=steps,
        kept_epoch=kept,
        loss=of_kept["loss"],
        accuracy=of_kept["accuracy"],
        val_loss=metrics["val_loss"],
        val_accuracy=metrics["val_accuracy"],
        last_loss=last["loss"],
        last_accuracy=last["accuracy"],
        last_val_loss=last["val_loss"],
        last_val_accuracy=last["val_accuracy"],
        images=int(confusion.sum()),
        largest_share=float(confusion.sum(axis=1).max() / confusion.sum()),
        epoch_seconds=seconds,
        step_ms=1000 * seconds / steps,
        faults=faults(history, confusion),
    )


def _numbers(logs: dict) -> dict[str, float]:
    """The figures of a record, with NaN for null, which stands for every figure that is not finite."""
    return {name: math.nan if value is None else value for name, value in logs.items()}


def _kept_epoch(history: Sequence[dict]) -> int:
    losses = {number: logs["val_loss"] for number, logs in enumerate(history, 1) if math.isfinite(logs["val_loss"])}
    return min(losses, key=losses.__getitem__, default=0)


def _epoch_seconds(record: dict) -> float:
    seconds = record.get("epoch_seconds")
    if not seconds:
        return record["metrics"]["train_seconds"] / len(record["history"])
    return float(median(seconds[1:] or seconds))


def faults(history: Sequence[dict], confusion: np.ndarray) -> tuple[str, ...]:
    """The faults of a training, in words.

    history: `loss`, `val_loss` and `val_accuracy` of each epoch. confusion: (classes, classes) of the kept epoch, with the
    true class in rows; it shows a constant prediction. At the end of the training, a constant shows as an accuracy equal
    to the share of one class, with a loss no better than that of the shares.
    """
    shares = confusion.sum(axis=1) / confusion.sum()
    known = shares[shares > 0]
    constant_loss = float(-(known * np.log(known)).sum())
    found = [_divergence([logs["loss"] for logs in history], constant_loss)]
    if np.count_nonzero(confusion.sum(axis=0)) == 1:
        found.append("predicts one class for every validation image")
    elif _is_constant(history[-1], known, constant_loss, int(confusion.sum())):
        found.append(
            f"ends no better than a constant prediction: val_accuracy {history[-1]['val_accuracy']:.4f}, "
            f"val_loss {history[-1]['val_loss']:.4g}"
        )
    known = tuple(text for text in found if text)
    if not known and not math.isfinite(history[-1]["val_loss"]):
        return (f"diverged: the validation loss is not finite in epoch {len(history)}",)
    return known


def _divergence(losses: list[float], constant_loss: float) -> str | None:
    first_bad = next((epoch for epoch, loss in enumerate(losses, 1) if not math.isfinite(loss)), None)
    if first_bad is not None:
        return f"diverged: the loss is not finite from epoch {first_bad} on"
    if losses[-1] > GROWTH * losses[0] and losses[-1] > constant_loss:
        return f"diverged: the loss grew from {losses[0]:.4g} to {losses[-1]:.4g}"
    return None


def _is_constant(last: dict, shares: np.ndarray, constant_loss: float, images: int) -> bool:
    is_share = bool((np.abs(shares - last["val_accuracy"]) < 0.5 / images).any())
    return is_share and not last["val_loss"] < NEAR * constant_loss  # NaN is no better


@dataclass(frozen=True)
class Cell:
    """Trainings that differ only by their seed."""

    rows: tuple[Row, ...]

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
    """The rows by standardisation, sampling and batch size, in that order."""
    found: dict[tuple[bool, bool, int], list[Row]] = {}
    for row in rows:
        found.setdefault((not row.standardize, row.sampling != "shuffle", row.batch_size), []).append(row)
    return [Cell(tuple(found[key])) for key in sorted(found)]


@dataclass(frozen=True)
class Advice:
    """What to use, and what to try.

    best: the highest mean validation accuracy. chosen: the shortest epoch among the cells within one standard error of the
    best. has_learnt: the best is better, by more than one standard error, than predicting the largest class for every
    image. rule: how the learning rate scales with the batch size, `linear` or `square root`. learning_rates: batch size →
    the scaled rate, starting from the rate of `chosen`.
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
    chosen = min(
        (cell for cell in all_cells if cell.mean("val_accuracy") >= least), key=lambda cell: cell.epoch_seconds
    )
    row = chosen.rows[0]
    rule = "linear" if row.optimizer == "sgd" else "square root"
    power = {"linear": 1.0, "square root": 0.5}[rule]
    sizes = sorted({row.batch_size for row in rows})
    rates = {size: row.learning_rate * (size / row.batch_size) ** power for size in sizes}
    return Advice(best, chosen, least > row.largest_share, rule, rates)
