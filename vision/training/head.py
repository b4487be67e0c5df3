"""The head: the small classifier trained on features."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

Kind = Literal["mlp", "linear"]
Optimizer = Literal["rmsprop", "adam", "sgd"]
ClassWeight = Literal["none", "balanced"]
Sampling = Literal["shuffle", "bootstrap"]
TrainOn = Literal["features", "images"]

# What Keras' optimizers take where no learning rate is given.
LEARNING_RATES: dict[Optimizer, float] = {"rmsprop": 0.001, "adam": 0.001, "sgd": 0.01}


# Fields of a HeadSpec that came when there were heads already.
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
}


@dataclass(frozen=True)
class HeadSpec:
    """Everything that shapes a trained head, beside the data, the seed and the head it goes on from.

    classes: names in index order. kind: `mlp` has a hidden layer, `linear` none. epochs: the number of the last one;
    initial_epoch: how many are done already, by the head it goes on from; initial_head: the name of that head where it
    went on from another one itself, empty where it was trained from the beginning. steps_per_epoch: None is
    one pass over the data. validation_steps: batches after each epoch, always the same; None is all. learning_rate: None takes the optimizer's own default. patience: epochs
    without a lower validation loss after which training ends; None goes on to the last. sampling:
    `bootstrap` draws with replacement. shuffle_memory_mb: bounds the window of the shuffle, so it
    changes the order of the samples.

    augment: how training images are augmented, as text (vision/pixels/augmentation.py), empty: not at all. variants: views of
    each that are stored, the plain one counted, of which an epoch takes one. train_on: `images` are augmented afresh for
    each epoch instead. fine_tune: the block of the backbone that is trained with the head once that is (vision/training/fine_tuning.py),
    and those behind it, for so many epochs at that learning rate; empty: none.
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

    @property
    def untuned(self) -> "HeadSpec":
        """The head that fine-tuning begins at."""
        usual: dict[str, Any] = {field.name: field.default for field in fields(self) if "fine_tune" in field.name}
        is_augmented = self.variants > 1 or self.train_on == "images"
        return replace(self, **usual, augment=self.augment if is_augmented else "")

    def record(self) -> dict:
        """Everything, but for what came later and is at its default: heads from before keep their names."""
        usual = {field.name: field.default for field in fields(self) if field.name in LATER}
        known = {name: value for name, value in asdict(self).items() if name not in usual or value != usual[name]}
        return known | {"classes": list(self.classes)}


def epochs_before(head: Mapping[str, Any]) -> int:
    """How many epochs were done before those of the history. head: the spec; fine-tuning counts its own epochs."""
    return 0 if head.get("fine_tune") else head.get("initial_epoch", 0)
