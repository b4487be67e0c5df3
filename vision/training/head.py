"""The head: the small classifier trained on features."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

Kind = Literal["mlp", "linear", "pooled", "logistic"]
HeadPooling = Literal["avg+max", "avg", "max"]
Optimizer = Literal["rmsprop", "adam", "sgd"]
ClassWeight = Literal["none", "balanced"]
Sampling = Literal["shuffle", "bootstrap"]
TrainOn = Literal["features", "images"]

# Keras' defaults.
LEARNING_RATES: dict[Optimizer, float] = {"rmsprop": 0.001, "adam": 0.001, "sgd": 0.01}


# Fields that were added to HeadSpec after the first heads were stored.
LATER = {
    "initial_epoch",
    "initial_head",
    "validation_steps",
    "augment",
    "variants",
    "train_on",
    "fine_tune",
    "fine_tune_epochs",
    "fine_tune_learning_rate",
    "head_pooling",
    "l2",
}

# What the logistic head has no use for, because it is not trained in epochs.
OF_EPOCHS = {
    "epochs",
    "initial_epoch",
    "initial_head",
    "steps_per_epoch",
    "validation_steps",
    "batch_size",
    "optimizer",
    "learning_rate",
    "patience",
    "sampling",
    "shuffle_memory_mb",
    "train_on",
}


@dataclass(frozen=True)
class HeadSpec:
    """Everything that determines a trained head, except the data, the seed and the weights of the head it continues from.

    classes: names in index order. kind: `mlp` has a hidden layer, `linear` none; `pooled` is one layer on the pooled maps;
    `logistic` has the layers of `pooled`, but a solver finds their weights instead of epochs (vision/training/logistic.py),
    and everything that concerns epochs is ignored. epochs: the number of the last epoch.
    initial_epoch: the epochs of the head that it continues from. initial_head: the name of that head if it went on from
    another one itself; empty if it was trained from the start. steps_per_epoch: None is one pass over the data.
    validation_steps: number of batches after each epoch, always the same ones; None is all. learning_rate: None is the
    optimizer's default. patience: training ends after so many epochs without a lower validation loss; None trains to the
    last epoch. sampling: `bootstrap` draws with replacement. shuffle_memory_mb: the size of the shuffle's window, which
    changes the order of the samples.

    augment: the augmentation of training images as text (vision/pixels/augmentation.py); empty is none. variants: number of
    stored views per image, including the plain one; an epoch uses one of them. train_on: `images` augments images anew for
    each epoch instead. fine_tune: the first block of the backbone to train together with the finished head
    (vision/training/fine_tuning.py), for fine_tune_epochs at fine_tune_learning_rate; empty is no fine-tuning.

    head_pooling: the pooling inside a `pooled` or `logistic` head. Features that are pooled already are taken as they are.
    l2: the regularisation of a `logistic` head; None chooses it by cross-validation.
    """

    classes: tuple[str, ...]
    kind: Kind = "mlp"
    epochs: int = 20
    initial_epoch: int = 0
    initial_head: str = ""
    steps_per_epoch: int | None = None
    validation_steps: int | None = None
    batch_size: int = 128
    optimizer: Optimizer = "rmsprop"
    learning_rate: float | None = None
    patience: int | None = None
    class_weight: ClassWeight = "none"
    sampling: Sampling = "shuffle"
    standardize: bool = True
    shuffle_memory_mb: int = 256
    augment: str = ""
    variants: int = 1
    train_on: TrainOn = "features"
    fine_tune: str = ""
    fine_tune_epochs: int = 5
    fine_tune_learning_rate: float = 1e-5
    head_pooling: HeadPooling = "avg+max"
    l2: float | None = None

    @property
    def pools(self) -> bool:
        """Whether the head pools the maps itself."""
        return self.kind in ("pooled", "logistic")

    @property
    def has_epochs(self) -> bool:
        """Whether the training goes through the images in epochs."""
        return self.kind != "logistic" or bool(self.fine_tune)

    @property
    def label(self) -> str:
        """The head in words."""
        strength = "by cross-validation" if self.l2 is None else f"{self.l2:.3g}"
        return head_label(self.kind, self.head_pooling, strength)

    @property
    def rate(self) -> float:
        """The learning rate, also if it is the optimizer's default."""
        return self.learning_rate or LEARNING_RATES[self.optimizer]

    @property
    def untuned(self) -> "HeadSpec":
        """The head that fine-tuning starts from."""
        usual: dict[str, Any] = {field.name: field.default for field in fields(self) if "fine_tune" in field.name}
        is_augmented = self.variants > 1 or self.train_on == "images"
        return replace(self, **usual, augment=self.augment if is_augmented else "")

    def record(self) -> dict:
        """All fields except later ones at their default, so that the names of stored heads never change.

        Fields that do not determine this kind of head are left out too.
        """
        usual = {field.name: field.default for field in fields(self) if field.name in LATER}
        unused = (
            (set() if self.has_epochs else OF_EPOCHS)
            | (set() if self.pools else {"head_pooling"})
            | (set() if self.kind == "logistic" else {"l2"})
        )
        known = {name: value for name, value in asdict(self).items() if name not in usual or value != usual[name]}
        return {name: value for name, value in known.items() if name not in unused} | {"classes": list(self.classes)}


def head_label(kind: str, head_pooling: str, strength: str) -> str:
    """A head in words. strength: of the regularisation, if it is logistic."""
    pooled = f" {head_pooling}" if kind in ("pooled", "logistic") else ""
    return f"{kind}{pooled}" + (f", L2 {strength}" if kind == "logistic" else "")


def epochs_before(head: Mapping[str, Any]) -> int:
    """The number of epochs before those of the history. head: the record of a spec. Fine-tuning counts its own epochs."""
    return 0 if head.get("fine_tune") else head.get("initial_epoch", 0)
