"""The parameters of a head and of its training."""

from dataclasses import fields
from typing import Literal, Self

import pydantic
from pydantic import Field

from flows.options.augment import Augment
from flows.options.field_types import LARGEST_COUNT, LARGEST_SEED
from storage.reading.stream import READ_THREADS
from storage.shards.view_ids import MOST_VARIANTS
from vision.training.head import ClassWeight, HeadPooling, HeadSpec, Kind, Optimizer, Sampling, TrainOn


class TrainingOptions(pydantic.BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """The group `training` of the pipeline's parameters."""

    head: Literal["auto", "mlp", "linear", "pooled", "logistic"] = Field(
        "auto",
        title="training",
        description="mlp: the tutorial's Dense 256 and dropout; linear: neither; pooled: one layer on globally pooled maps; "
        "logistic: the same, fitted by a solver; auto: mlp and logistic, and the better one becomes current",
    )
    head_pooling: HeadPooling = Field(
        "avg+max", title="training", description="global pooling inside a pooled or logistic head"
    )
    l2: float | None = Field(
        None,
        gt=0,
        title="training",
        description="L2 regularisation of a logistic head; default: chosen by cross-validation on the training images",
    )
    epochs: int = Field(20, ge=1, le=LARGEST_COUNT, title="training", description="passes over the training images")
    initial_epoch: int = Field(
        0,
        ge=0,
        title="training",
        description="continue from the head that the same options trained with --epochs N",
    )
    steps_per_epoch: int | None = Field(
        None,
        ge=1,
        le=LARGEST_COUNT,
        title="training",
        description="end each epoch after N steps; the next epoch continues from there",
    )
    validation_steps: int | None = Field(
        None,
        ge=1,
        title="training",
        description="validate on the same N batches after each epoch; the kept head is evaluated on all images",
    )
    batch_size: int = Field(128, ge=1, title="training", description="samples per step, at most as many as there are")
    optimizer: Optimizer = Field("rmsprop", title="training", description="Keras optimizer")
    learning_rate: float | None = Field(
        None, gt=0, title="training", description="learning rate; default: the optimizer's own"
    )
    patience: int | None = Field(
        None,
        ge=1,
        title="training",
        description="stop after N epochs without a lower validation loss; the best epoch is kept in any case",
    )
    class_weight: ClassWeight = Field(
        "none", title="training", description="balanced: every class counts the same, however many images it has"
    )
    sampling: Sampling = Field(
        "shuffle",
        title="training",
        description="shuffle: each image once per pass; bootstrap: draw with replacement, as the tutorial did",
    )
    standardize: bool = Field(
        True, title="training", description="scale each feature channel by its training statistics"
    )
    shuffle_memory_mb: int = Field(256, ge=1, title="training", description="memory for the shuffle, in MB")
    seed: int = Field(
        0,
        ge=0,
        le=LARGEST_SEED,
        title="training",
        description="seed of the sample order, the initial weights and the dropout",
    )
    augment: Augment | None = Field(
        None,
        title="training",
        description="augmentation of the training images: parameters of Keras' ImageDataGenerator, as JSON, YAML or a file",
    )
    variants: int = Field(
        1,
        ge=1,
        le=MOST_VARIANTS + 1,
        title="training",
        description="stored views of each training image, including the plain one; each epoch uses one of them",
    )
    train_on: TrainOn = Field(
        "features",
        title="training",
        description="features: train on stored features; images: decode and augment the images again for each epoch",
    )
    fine_tune: Literal["block5", "block4", "block3", "block2"] | None = Field(
        None,
        title="training",
        description="after the head, train it together with this block of the network and those after it",
    )
    fine_tune_epochs: int = Field(
        5, ge=1, le=LARGEST_COUNT, title="training", description="passes over the images for fine-tuning"
    )
    fine_tune_learning_rate: float = Field(1e-5, gt=0, title="training", description="learning rate for fine-tuning")
    read_threads: int = Field(READ_THREADS, ge=1, title="training", description="row groups read in parallel")
    checkpoint_seconds: float = Field(
        60,
        ge=0,
        title="training",
        description="minimum seconds between checkpoints",
    )
    force_retrain: bool = Field(False, title="training", description="train the head again even if it exists")
    promote: bool = Field(False, title="training", description="make the head current without comparing it")

    @pydantic.model_validator(mode="after")
    def _augments_what_is_trained_on(self) -> Self:
        if self.variants > 1 and self.train_on == "images":
            raise ValueError(
                "--variants: --train-on images makes new variants in each epoch and stores none; give one of the two flags"
            )
        if self.variants > 1 and self.augment is None:
            raise ValueError(f"--variants: {self.variants} views need an augmentation; describe it with --augment")
        if self.augment is not None and self.variants == 1 and self.train_on == "features" and not self.fine_tune:
            raise ValueError(
                "--augment: no training uses the augmented images; add --variants 4 (stored once), "
                "--train-on images (new ones for each epoch) or --fine-tune block5"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _has_epochs_to_train(self) -> Self:
        if self.initial_epoch >= self.epochs:
            raise ValueError(
                f"--initial-epoch: {self.initial_epoch} must be less than --epochs, which is {self.epochs}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _has_epochs(self) -> Self:
        if self.head == "logistic" and self.initial_epoch:
            raise ValueError("--initial-epoch: a solver fits a logistic head, without epochs to continue from")
        if self.head == "logistic" and self.train_on == "images":
            raise ValueError(
                "--train-on: a solver fits a logistic head once, and images would differ in each epoch; "
                "store variants of them with --variants 4, or train another --head"
            )
        return self

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of heads to train, the fastest first."""
        return ("logistic", "mlp") if self.head == "auto" else (self.head,)

    @property
    def augmentation(self) -> str:
        """The text of the augmentation, as plans and heads record it; empty if there is none."""
        return self.augment.text if self.augment else ""

    def head_spec(self, classes: tuple[str, ...], kind: Kind) -> HeadSpec:
        """A head for these classes, with its fine-tuning if that is asked for. A logistic head trains on stored features."""
        own = {"augment": self.augmentation, "fine_tune": self.fine_tune or ""}
        own |= {"train_on": "features"} if kind == "logistic" else {}
        same_names = {field.name for field in fields(HeadSpec)} - {"classes", *own}
        return HeadSpec(classes=classes, kind=kind, **self.model_dump(include=same_names), **own)
