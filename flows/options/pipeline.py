"""The parameters of the pipeline: flags, YAML keys and Prefect parameters come from this one model."""

import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Literal, Self

import pydantic
from pydantic import Field

from flows.options.augment import Augment
from flows.options.field_types import LARGEST_COUNT, LARGEST_SEED, ClassNames, Fraction, OutsideLinks
from flows.options.roots import IMAGE_ROOTS, STORE_ROOTS, WEIGHTS_ROOTS, check_below
from storage.backend.paths import Place, at_home, place
from storage.classes import index_order
from storage.errors import InputError
from storage.manifest.versions import precedent
from storage.planning.options import PlanOptions
from storage.reading.stream import READ_THREADS
from storage.shards.shard import MAX_ROWS, Format
from storage.shards.view_ids import MOST_VARIANTS
from storage.source.folder_layout import Layout
from storage.source.precedent import Precedent
from storage.text import some
from vision.engines.selection import EngineName, choose
from vision.pixels.augmentation import Augmentation, split_rescale
from vision.specs import BACKBONES, Dtype, Exif, FeatureSpec, Pooling, Precision, SixteenBit, cut_shape
from vision.training.head import ClassWeight, HeadSpec, Kind, Optimizer, Sampling, TrainOn
from workers.devices import Slot, slots, visible_gpus
from workers.jobs.head_identity import check_trainable
from workers.jobs.records import HeadJob, Promotion, Space, VersionRecord
from workers.jobs.spaces import NAMED_WEIGHTS, find_space, head_job
from workers.runners.base import RunnerName

ROOTS = {
    "images": IMAGE_ROOTS,
    "labels": IMAGE_ROOTS,
    "store": STORE_ROOTS,
    "out": STORE_ROOTS,
    "weights": WEIGHTS_ROOTS,
}


class PipelineOptions(pydantic.BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """Parameters of `extract-and-train`. `title` is the group that --help shows a flag in."""

    images: str | None = Field(
        None,
        title="input",
        description="folder of class folders, or of train/ and validation/ folders that hold class folders; also s3://bucket/prefix or gs://bucket/prefix",
    )
    store: str = Field(
        "./store",
        title="input",
        validate_default=True,
        description="folder that keeps features, versions and heads; also s3://bucket/prefix or gs://bucket/prefix",
    )
    layout: Layout = Field("auto", title="input", description="how folders give labels; auto inspects them")
    labels: str | None = Field(
        None,
        title="input",
        description=".csv or .parquet table with columns path, class and optionally split, used instead of folder names",
    )
    classes: ClassNames | None = Field(
        None,
        title="input",
        description="classes to train on, in index order, for example cat,dog; default: all, sorted by name",
    )
    validation_fraction: Fraction = Field(
        0.2, title="input", description="share of the images held out when no image is assigned to validation"
    )
    outside_links: OutsideLinks = Field(
        False,
        title="input",
        description="follow links that lead out of the image folder; by default they are skipped with a warning",
    )
    allow_relabels: bool = Field(
        False,
        title="input",
        description="accept folders that label existing images differently from the newest version",
    )
    rehash: bool = Field(
        False, title="input", description="read every image again instead of trusting file sizes and times"
    )

    backbone: Literal[*BACKBONES] = Field(
        "vgg16", title="features", description="frozen network that computes the features"
    )
    weights: str = Field("imagenet", title="features", description="imagenet, random, or a Keras weights file")
    image_size: int = Field(
        224, title="features", description="side in pixels of the square that each image is resized to"
    )
    pooling: Pooling = Field("none", title="features", description="pooling of the last feature map")
    dtype: Dtype = Field("float16", title="features", description="type of the stored features")
    precision: Precision = Field("float32", title="features", description="arithmetic of the backbone")
    exif: Exif = Field(
        "ignore",
        title="features",
        description="apply: turn images by their EXIF orientation; ignore: do not, as in Keras",
    )
    sixteen_bit: SixteenBit = Field(
        "clip",
        title="features",
        description="scale: keep the high byte of 16-bit greys; clip: values over 255 become white, as in Keras",
    )

    engine: EngineName = Field(
        "auto",
        title="running",
        description="library that computes the features; auto: tensorflow on a GPU, otherwise mnn if it is installed and supports the features, otherwise tensorflow",
    )
    runner: RunnerName = Field(
        "local",
        title="running",
        description="where jobs run; local: child processes; inline: this process, without isolation or time-outs",
    )
    workers: int | None = Field(
        None, ge=1, title="running", description="number of extraction processes; default: one per GPU, or one per core"
    )
    format: Format = Field("parquet", title="running", description="file format of new shards")
    chunk_size: int | None = Field(
        None,
        ge=1,
        le=MAX_ROWS,
        title="running",
        description="images per shard; default: chosen by the number of images, at most 256",
    )
    limit: int | None = Field(None, ge=0, title="running", description="extract at most N new images in this run")
    extract_only: bool = Field(False, title="running", description="extract and commit features, but train no head")
    max_bad_fraction: Fraction = Field(
        0.01, title="running", description="end with status 3 if a larger share of the images is unusable"
    )
    max_removed_fraction: Fraction = Field(
        0.2, title="running", description="end with status 4 if a larger share of the images is gone"
    )
    allow_removals: bool = Field(False, title="running", description="accept any number of missing images")
    single_writer: bool = Field(
        False,
        title="running",
        description="declare that no two runs ever write to the store at the same time; for file systems without hard links",
    )
    wait: float = Field(
        0,
        ge=0,
        title="running",
        description="seconds to wait for another run on the same store; a deployment's run waits a day by default",
    )

    head: Kind = Field(
        "mlp", title="training", description="mlp: the tutorial's Dense 256 and dropout; linear: neither"
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

    @pydantic.field_validator("images", "store", "labels", "weights")
    @classmethod
    def _can_be_kept_as_text(cls, value: str | None, info: pydantic.ValidationInfo) -> str | None:
        """The whole path, as it is kept: the working folder may be what is not UTF-8. And it lies below the roots."""
        is_path = value and "://" not in value and not (info.field_name == "weights" and value in NAMED_WEIGHTS)
        if value and is_path and value.startswith("~"):
            value = os.path.abspath(at_home(value))  # settled here, before it is known to lie below the roots
        path = os.path.abspath(value) if value and is_path else ""
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"--{info.field_name}: the path {path!a} is not UTF-8, and Prefect and Arrow keep paths as text; "
                "make a link to it that is (names below the image folder may be any bytes)"
            ) from None
        if is_path or (value and "://" in value):
            check_below(f"--{info.field_name}", value, ROOTS[info.field_name or ""])
        return value

    @pydantic.model_validator(mode="after")
    def _is_a_feature_space(self) -> Self:
        self.chosen_engine()  # a SpecError now, not after a long scan
        return self

    @pydantic.model_validator(mode="after")
    def _has_a_slot_for_each_worker(self) -> Self:
        if self.runner == "inline" and (self.workers or 1) > 1:
            raise ValueError(f"--workers {self.workers}: --runner inline has one; leave --workers out")
        return self

    @pydantic.model_validator(mode="after")
    def _augments_what_is_trained_on(self) -> Self:
        if self.variants > 1 and self.train_on == "images":
            raise ValueError(
                "--variants are of cached features; with --train-on images each epoch has its own: give one"
            )
        if self.variants > 1 and self.augmentation is None:
            raise ValueError(f"--variants {self.variants}: say with --augment how the images are varied")
        if self.augmentation is not None and self.variants == 1 and self.train_on == "features" and not self.fine_tune:
            raise ValueError(
                "--augment: nothing is trained on images that are varied; add --variants 4 (stored once), "
                "--train-on images (afresh for each epoch) or --fine-tune block5"
            )
        cut_shape(self._spec(), self.fine_tune)  # a SpecError now
        return self

    @pydantic.model_validator(mode="after")
    def _has_epochs_to_train(self) -> Self:
        if self.initial_epoch >= self.epochs:
            raise ValueError(
                f"--initial-epoch: {self.initial_epoch} epochs are done and --epochs is {self.epochs}, which leaves none"
            )
        return self

    def changed(self) -> set[str]:
        """The names of those that are not at their defaults."""
        return {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}

    @property
    def folder(self) -> Place:
        """The image folder, absolute, or the prefix of an object store. Raises InputError where none was given."""
        if self.images is None:
            raise InputError("--images: the folder of images is missing")
        return place(self.images)

    @property
    def label_file(self) -> Place | None:
        return place(self.labels) if self.labels else None

    def space(self) -> Space:
        """The feature space that these options name; reads weights that are new to the store.

        Raises InputError for a store that the next scan would take for a class folder.
        """
        root, folder = place(self.store), self.folder
        above = f"{str(folder).rstrip('/')}/"
        inside = str(root).removeprefix(above) if str(root).startswith(above) else None
        if root == folder or (inside and not any(part.startswith(".") for part in inside.split("/"))):
            raise InputError(
                f"--store: {root} lies in the image folder {folder}, where it would be taken for a class; "
                "put it beside, or give it a name that begins with a dot"
            )
        return find_space(
            root,
            folder,
            self.weights,
            self.backbone,
            self.image_size,
            self.pooling,
            self.dtype,
            self.precision,
            self.exif,
            self.rescale,
            self.sixteen_bit,
        )

    @property
    def rescale(self) -> float:
        return split_rescale(json.loads(self.augment))[0] if self.augment else 1.0

    @property
    def augmentation(self) -> Augmentation | None:
        """How images are varied; None where they stay as they are."""
        given = Augmentation.of(split_rescale(json.loads(self.augment))[1]) if self.augment else None
        return None if given is None or given.is_plain else given

    def precedent(self, space: Space) -> Callable[[], Precedent | None] | None:
        """How to learn what a layout that is guessed has to agree with; None where it need not."""
        return None if self.allow_relabels else partial(precedent, space.store)

    def _spec(self) -> FeatureSpec:
        """The feature space but for its weights."""
        own = (self.backbone, self.image_size, self.pooling, self.dtype, self.precision)
        return FeatureSpec("", *own, exif=self.exif, rescale=self.rescale, sixteen_bit=self.sixteen_bit)

    def chosen_engine(self) -> str:
        """What computes the features on this machine. Raises SpecError for features that cannot be computed."""
        return choose(self.engine, self._spec(), bool(visible_gpus()))

    def extraction_slots(self, engine: str) -> tuple[Slot, ...]:
        return slots(1 if self.runner == "inline" else self.workers, engine)

    def plan_options(self) -> PlanOptions:
        """What bounds the plan. Raises InputError for what would only be found out after the extraction."""
        if self.classes is not None and len(self.classes) == 1 and not self.extract_only:
            raise InputError(
                f"--classes names {some(self.classes)} alone, and training needs at least two classes; "
                "name another, or pass --extract-only"
            )
        return PlanOptions(
            self.validation_fraction,
            self.chunk_size,
            self.limit,
            self.max_removed_fraction,
            self.allow_removals,
            self.format,
            self.variants,
            self.augmentation.text if self.augmentation else "",
            None if self.extract_only else self.classes,
        )

    def head_job(self, space: Space, version: VersionRecord) -> HeadJob:
        """The training that these options ask for. Raises InputError where the version cannot be trained on."""
        promote: Promotion = "always" if self.promote else "if_better"
        return self._job(space, version, self._head_spec(version).untuned, promote)

    def fine_tune_job(self, space: Space, version: VersionRecord) -> HeadJob | None:
        """What is to follow that training; None where nothing is fine-tuned. Its result is no head that others are compared with."""
        return self._job(space, version, self._head_spec(version), "never") if self.fine_tune else None

    def _head_spec(self, version: VersionRecord) -> HeadSpec:
        classes = index_order(self.classes, version.classes)
        check_trainable(version.classes, classes)
        own = {"augment": self.augmentation.text if self.augmentation else "", "fine_tune": self.fine_tune or ""}
        same_names = {field.name for field in fields(HeadSpec)} - {"classes", *own}
        return HeadSpec(classes=classes, kind=self.head, **self.model_dump(include=same_names), **own)

    def _job(self, space: Space, version: VersionRecord, spec: HeadSpec, promote: Promotion) -> HeadJob:
        job = head_job(space, version, spec, self.seed, self.force_retrain, promote)
        own = {"checkpoint_seconds": self.checkpoint_seconds, "read_threads": self.read_threads}
        return replace(job, **own, engine=self.chosen_engine())  # type: ignore[arg-type]
