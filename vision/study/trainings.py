"""Trainings that differ by head, batch size and seed: one row each, and advice that uses only these rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from vision.training.head import LEARNING_RATES, HeadSpec, head_label

# A training diverged if its last loss is over this multiple of its first epoch's, and over that of a constant prediction.
GROWTH = 2.0
# A validation loss of at least this part of that of a constant prediction is no better than a constant.
NEAR = 0.95
CONSTANT = "predicts one class for every validation image"


@dataclass(frozen=True)
class Row:
    """One training. Figures belong to the kept epoch (lowest validation loss), or to the last one if named `last`.

    batch_size: the effective one, at most the number of training images. learning_rate: the effective one. steps: per
    epoch. kept_epoch: counts from 1; 0 if no epoch had a finite validation loss, so that the initial weights were kept.
    images: of the validation split. largest_share: the share of its largest class. epoch_seconds, step_ms: the training
    part of an epoch, see `row_of`. seconds: of all epochs. faults: what went wrong, in words.

    A head that a solver fitted has no epochs, no batch size and no sampling: 0 or an empty text. Its `loss` and `accuracy` are
    those of the cross-validation, or NaN. l2: its strength, None for other heads. is_searched: cross-validation chose it.
    """

    head: str
    kind: str
    head_pooling: str
    l2: float | None
    is_searched: bool
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
    seconds: float
    faults: tuple[str, ...]

    @property
    def label(self) -> str:
        """The head in words."""
        chosen = " by cross-validation" if self.is_searched else ""
        return head_label(self.kind, self.head_pooling, f"{self.l2:.3g}{chosen}" if self.l2 else "")

    @property
    def has_epochs(self) -> bool:
        return self.epochs > 0

    @property
    def is_finite(self) -> bool:
        """Whether every loss of the training was a finite number."""
        losses = (self.val_loss, self.last_loss, self.last_val_loss) if self.has_epochs else (self.val_loss,)
        return all(map(math.isfinite, losses))


def row_of(name: str, record: dict) -> Row:
    """The row of a head, from its head.json.

    epoch_seconds: the median of the epochs' times without the first, which includes the tracing of the graph. A head
    without these times gives its whole training time, with statistics and validation, divided by its epochs.
    """
    if "regularization" in record:
        return _solved_row(name, record)
    spec, history, metrics = record["head"], [_numbers(logs) for logs in record["history"]], _numbers(record["metrics"])
    samples = record["samples"]["train"]
    batch_size = min(spec["batch_size"], samples)
    steps = spec["steps_per_epoch"] or math.ceil(samples / batch_size)
    kept, last = _kept_epoch(history), history[-1]
    of_kept = history[kept - 1] if kept else {"loss": math.nan, "accuracy": math.nan}
    seconds, confusion = _epoch_seconds(record), np.asarray(record["confusion"])
    return Row(
        **_common(name, record),
        l2=None,
        is_searched=False,
        batch_size=batch_size,
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
        epoch_seconds=seconds,
        step_ms=1000 * seconds / steps,
        seconds=seconds * len(history),
        faults=faults(history, confusion),
    )


def _common(name: str, record: dict) -> dict[str, Any]:
    """The fields that every training has."""
    spec, confusion = record["head"], np.asarray(record["confusion"])
    return {
        "head": name,
        "kind": spec["kind"],
        "head_pooling": spec.get("head_pooling", HeadSpec.head_pooling),
        "seed": record["seed"],
        "standardize": spec["standardize"],
        "images": int(confusion.sum()),
        "largest_share": float(confusion.sum(axis=1).max() / confusion.sum()),
    }


def _solved_row(name: str, record: dict) -> Row:
    """The row of a head that a solver fitted."""
    metrics, chosen = record["metrics"], record["regularization"]
    confusion, none = np.asarray(record["confusion"]), {"loss": math.nan, "accuracy": math.nan}
    tried = next((each for each in chosen["tried"] if each["l2"] == chosen["l2"]), none)
    figures: dict[str, Any] = {"loss": tried["loss"], "accuracy": tried["accuracy"]}
    figures |= {"val_loss": metrics["val_loss"], "val_accuracy": metrics["val_accuracy"]}
    is_constant = np.count_nonzero(confusion.sum(axis=0)) == 1
    return Row(
        **_common(name, record),
        l2=chosen["l2"],
        is_searched=bool(chosen["tried"]),
        batch_size=0,
        sampling="",
        optimizer="",
        learning_rate=math.nan,
        epochs=0,
        steps=0,
        kept_epoch=0,
        **figures,
        **{f"last_{name}": value for name, value in figures.items()},
        epoch_seconds=math.nan,
        step_ms=math.nan,
        seconds=metrics["train_seconds"],
        faults=(CONSTANT,) if is_constant else (),
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
        found.append(CONSTANT)
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
