"""The page about a trained head, in one file that needs no script and no network.

Names of classes and files are untrusted. jinja2 escapes everything except the SVG of charts.py, which is made of numbers
alone, and the page's own policy forbids it to load or run anything.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vision.pixels.augmentation import Augmentation
from vision.report.augmentation_samples import Augmented, address, in_words
from vision.report.charts import heat_map, learning_curve
from vision.training.evaluation import f1_score, wilson_interval
from vision.training.head import HeadSpec, epochs_before

# A wider confusion matrix or a longer list is unreadable.
LARGEST_MATRIX = 20
LONGEST_LIST = 200
CONFUSIONS_LISTED = 20

# Field of a head → its label, its unit, and the text for None.
SETTINGS = {
    "kind": ("kind", "", ""),
    "epochs": ("epochs at most", "", ""),
    "steps_per_epoch": ("steps per epoch", "", "one pass over the images"),
    "batch_size": ("batch size", "images", ""),
    "optimizer": ("optimizer", "", ""),
    "learning_rate": ("learning rate", "", "the optimizer's own"),
    "patience": ("patience", "epochs", "none: trains to the last epoch"),
    "class_weight": ("class weights", "", ""),
    "sampling": ("sampling", "", ""),
    "standardize": ("standardised features", "", ""),
    "shuffle_memory_mb": ("shuffle memory", "MB", ""),
    "augment": ("augmentation of training images", "", ""),
    "variants": ("stored views of a training image", "including the original", ""),
    "train_on": ("trained on", "", ""),
    "head_pooling": ("pooling in the head", "", ""),
    "l2": ("regularisation", "", "chosen by cross-validation"),
    "fine_tune": ("fine-tuned", "and later blocks", ""),
    "fine_tune_epochs": ("fine-tuning epochs at most", "", ""),
    "fine_tune_learning_rate": ("fine-tuning learning rate", "", ""),
}
# Fields whose value the page writes in another way than head.json.
MEANINGS: dict[str, Callable[[Any], str]] = {
    "augment": lambda text: in_words(Augmentation.parse(text)),
    "train_on": {"features": "features of the store", "images": "images, decoded again for each epoch"}.__getitem__,
}


@dataclass(frozen=True)
class Shown:
    """A mistake as the page shows it.

    own, predicted: the true and the predicted class. own_score, score: the probabilities that the head gave to them.
    path: of the file, as text. thumbnail: a JPEG; None if the file can no longer be used, and `fault` says why.
    """

    own: str
    predicted: str
    own_score: float
    score: float
    path: str
    thumbnail: bytes | None = None
    fault: str = ""

    @property
    def address(self) -> str | None:
        """The thumbnail as a data URI."""
        return None if self.thumbnail is None else address(self.thumbnail)


@dataclass(frozen=True)
class Report:
    """The content of the page.

    name: of the head. record: head.json (docs/store.md). classes: their names, each in one line. images: the image folder.
    committed, trained: the times of the version and of the head, as text. mistakes: on the validation images, the worst
    first. augmented: None if training images were not augmented. inspection: the report about the data of the version, or empty.
    """

    name: str
    record: Mapping[str, Any]
    classes: tuple[str, ...]
    images: str
    committed: str
    trained: str
    mistakes: tuple[Shown, ...]
    augmented: Augmented | None = None
    inspection: str = ""


@dataclass(frozen=True)
class Split:
    """The figures of the head on a split: those of head.json, and others derived from them.

    right: number of correct predictions. interval: the 95 % interval of the accuracy. largest: the share of the most
    frequent class, which is the accuracy of always predicting it.
    """

    name: str
    loss: float
    accuracy: float
    confusion: np.ndarray
    per_class: tuple[Mapping[str, Any], ...]

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())

    @property
    def right(self) -> int:
        return int(np.trace(self.confusion))

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.right, self.images)

    @property
    def largest(self) -> float:
        return float(self.confusion.sum(axis=1).max() / max(self.images, 1))

    @property
    def shares(self) -> np.ndarray:
        """(classes, classes) the confusion matrix as shares of the true class."""
        return self.confusion / np.maximum(self.confusion.sum(axis=1, keepdims=True), 1)


def render(report: Report) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    record, splits = report.record, splits_of(report.record)
    best, before = best_epoch(record["history"], record.get("start")), epochs_before(record["head"])
    count = len(record["history"])
    return fill(
        "page.html",
        report=report,
        record=record,
        best=best,
        before=before,
        epochs=f"epochs {before + 1} to {before + count}" if before else count,
        diverged=record.get("diverged"),
        fine_tune=record["head"].get("fine_tune"),
        base=record.get("base"),
        start=record.get("start"),
        regularization=record.get("regularization"),
        loss_curve=Markup(loss_curve(record["history"], best, before)) if count else "",
        accuracy_curve=Markup(accuracy_curve(record["history"], best, before)) if count else "",
        settings=settings(record["head"]),
        sizes=[(f"{split.name} images", setting(split.images)) for split in splits],
        versions=list(record["environment"].items()),
        **of_splits(splits),
    )


def of_splits(splits: Sequence[Split]) -> dict[str, Any]:
    """What the sections of classes and confusion show (classes.html)."""
    from markupsafe import Markup

    is_wide = len(splits[0].per_class) > LARGEST_MATRIX
    return {
        "splits": splits,
        "is_wide": is_wide,
        "class_order": class_order(splits[0], is_wide),
        "heat_maps": [Markup(heat_map(split.confusion, split.name)) for split in splits] if is_wide else [],
        "confusions": [confusions(split.confusion) for split in splits] if is_wide else [],
    }


def fill(template: str, **content: Any) -> str:
    """A template of this folder, filled. Every text in it is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "figure": figure,
        "setting": setting,
        "f1": f1,
        "short": "{:.3g}".format,
    }
    return environment.get_template(template).render(**content)


def splits_of(record: Mapping[str, Any]) -> list[Split]:
    """Validation, and test if the head was tested."""
    metrics, test = record["metrics"], record.get("test")
    validation = Split(
        "validation",
        metrics["val_loss"],
        metrics["val_accuracy"],
        np.array(record["confusion"]),
        tuple(record["per_class"].values()),
    )
    if test is None:
        return [validation]
    tested = Split(
        "test", test["loss"], test["accuracy"], np.array(test["confusion"]), tuple(test["per_class"].values())
    )
    return [validation, tested]


def best_epoch(history: Sequence[Mapping[str, float]], start: Mapping[str, float] | None = None) -> int | None:
    """The kept epoch as a place in the history, from 1: the first with the lowest finite validation loss.

    start: the figures before the first epoch, if there were any. None if no epoch has a finite loss, or none is below that
    of `start`.
    """
    losses = [(logs["val_loss"], number) for number, logs in enumerate(history, 1) if math.isfinite(logs["val_loss"])]
    best = min(losses, default=None)
    return best[1] if best and (start is None or best[0] < start["val_loss"]) else None


def loss_curve(history: Sequence[Mapping[str, float]], best: int | None, before: int) -> str:
    """Training and validation loss as SVG; `best` and `before` as in `learning_curve`."""
    training, validation = ([logs[name] for logs in history] for name in ("loss", "val_loss"))
    return learning_curve("loss, nats", training, validation, best, before)


def accuracy_curve(history: Sequence[Mapping[str, float]], best: int | None, before: int) -> str:
    """Training and validation accuracy in percent as SVG; `best` and `before` as in `learning_curve`."""
    training, validation = ([100 * logs[name] for logs in history] for name in ("accuracy", "val_accuracy"))
    return learning_curve("accuracy, %", training, validation, best, before, top=100.5)


def class_order(validation: Split, is_wide: bool) -> list[int]:
    """The listed classes in order: all of them, or, if there are many, those with the lowest recall first."""
    order = range(len(validation.per_class))
    if not is_wide:
        return list(order)
    recalls = [scores["recall"] for scores in validation.per_class]
    return sorted(order, key=lambda index: (recalls[index] is None, recalls[index]))[:LONGEST_LIST]


def confusions(confusion: np.ndarray) -> list[tuple[int, int, int]]:
    """The most frequent mistakes: true class, predicted class and count."""
    wrong = confusion - np.diag(np.diag(confusion))
    places = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS_LISTED]
    pairs = zip(*np.unravel_index(places, wrong.shape), strict=True)
    return [(int(own), int(other), int(wrong[own, other])) for own, other in pairs if wrong[own, other]]


def settings(head: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings of the head as labels and texts. An unknown field keeps its own name."""
    usual = ("fine_tune_epochs", "fine_tune_learning_rate") if head.get("fine_tune") else ()
    found = []
    for name, value in {**head, **{name: head.get(name, getattr(HeadSpec, name)) for name in usual}}.items():
        label, unit, absent = SETTINGS.get(name, (name.replace("_", " "), "", "none"))
        if name != "classes":
            written = MEANINGS.get(name, setting)
            found.append((label, absent if value is None else f"{written(value)} {unit}".strip()))
    return found


def setting(value: Any) -> str:
    """A value as text: True is yes, (7, 7, 512) is 7 × 7 × 512."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return " × ".join(map(setting, value)) if isinstance(value, list | tuple) else str(value)


def percent(share: float | None) -> str:
    """A share in percent. Rounding never makes it 0 or 100. None, from a division by zero, is a dash."""
    if share is None:
        return "–"
    if math.isnan(share):
        return "not a number"
    if 0 < share < 0.0005 or 0.9995 <= share < 1:
        return "under 0.1\N{NO-BREAK SPACE}%" if share < 0.5 else "over 99.9\N{NO-BREAK SPACE}%"
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def f1(scores: Mapping[str, Any]) -> float | None:
    """The F1 score of a class from its precision and recall."""
    return f1_score(scores["precision"], scores["recall"])


def figure(value: float) -> str:
    """A loss with four decimals."""
    return "not a number" if math.isnan(value) else f"{value:.4f}"
