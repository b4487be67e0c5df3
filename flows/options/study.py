"""The parameters of `batch-size-study` and `head-study`."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from flows.options.field_types import LARGEST_COUNT, LARGEST_SEED, ClassNames
from flows.options.paths import check_path
from flows.options.pipeline import PipelineOptions
from flows.study.study import Study
from storage.backend.paths import place
from storage.classes import index_order
from storage.manifest.select import chosen_version, one_space
from storage.manifest.space import check_space
from vision.training.head import ClassWeight, HeadPooling, HeadSpec, Kind, Optimizer
from workers.jobs.head_identity import check_trainable
from workers.jobs.records import HeadJob, Space, VersionRecord
from workers.jobs.spaces import head_job, stored_space, version_record
from workers.runners.base import RunnerName


def _several(value: Any) -> Any:
    """Turn `8,32`, a list or one number into a list."""
    found = value.split(",") if isinstance(value, str) else value
    return found if isinstance(found, list | tuple) else [found]


def _several_of(kind: Any) -> Any:
    """The type of a tuple of distinct values."""
    written = pydantic.BeforeValidator(_several, json_schema_input_type=str | tuple[kind, ...] | kind)
    once = pydantic.AfterValidator(lambda values: tuple(dict.fromkeys(values)))
    return Annotated[tuple[kind, ...], Field(min_length=1), written, once]


BatchSizes = _several_of(Annotated[int, Field(ge=1)])
Seeds = _several_of(Annotated[int, Field(ge=0, le=LARGEST_SEED)])
Kinds = _several_of(Kind)
Poolings = _several_of(HeadPooling)
Strengths = _several_of(Literal["auto"] | Annotated[float, Field(gt=0)])


def _as_in_the_pipeline(name: str) -> Any:
    return PipelineOptions.model_fields[name]


def _different(sizes: tuple[int, ...], images: int) -> list[int]:
    """The batch sizes that train differently: of those that hold every image, only the smallest stays."""
    largest = min((size for size in sizes if size >= images), default=0)
    return [size for size in sizes if size < images or size == largest]


class StudyOptions(pydantic.BaseModel, ABC, extra="forbid", frozen=True, allow_inf_nan=False):
    """The parameters that all studies share. The `title` of a field is the group of its flag in --help."""

    title: ClassVar[str]

    store: str = Field(
        "./store", title="input", validate_default=True, description="store that a run of the pipeline wrote"
    )
    space: str = Field("", title="input", description="first digits of a feature space, if the store has several")
    version: int | None = Field(None, ge=1, title="input", description="older version to train on; default: the newest")
    classes: ClassNames | None = _as_in_the_pipeline("classes")

    batch_sizes: BatchSizes = Field((8, 32, 128), title="study", description="batch sizes to train with")
    seeds: Seeds = Field((0, 1, 2), title="study", description="seeds to train each combination with")
    standardize: Literal["both", "yes", "no"] = Field(
        "both", title="study", description="yes: standardised features; no: raw features"
    )
    sampling: Literal["both", "shuffle", "bootstrap"] = Field(
        "both", title="study", description="shuffle: each image once per pass; bootstrap: drawn with replacement"
    )

    epochs: int = Field(5, ge=1, le=LARGEST_COUNT, title="training", description="passes over the training images")
    steps_per_epoch: int | None = _as_in_the_pipeline("steps_per_epoch")
    optimizer: Optimizer = _as_in_the_pipeline("optimizer")
    learning_rate: float | None = _as_in_the_pipeline("learning_rate")
    patience: int | None = _as_in_the_pipeline("patience")
    class_weight: ClassWeight = _as_in_the_pipeline("class_weight")
    shuffle_memory_mb: int = _as_in_the_pipeline("shuffle_memory_mb")

    out: str = Field(
        "./study",
        title="running",
        validate_default=True,
        description="folder for study.md, study.csv, study.json and study.png",
    )
    runner: RunnerName = _as_in_the_pipeline("runner")
    wait: float = _as_in_the_pipeline("wait")

    _paths = pydantic.field_validator("store", "out")(check_path)

    @pydantic.model_validator(mode="after")
    def _writes_into_a_folder(self) -> Self:
        if "://" in self.out or (self.folder.exists() and not self.folder.is_dir()):
            raise ValueError(
                f"--out: {self.out} is not a local folder; name a folder or a path that does not exist yet"
            )
        return self

    @property
    def folder(self) -> Path:
        """The output folder, absolute."""
        return Path(os.path.abspath(self.out))

    def study(self) -> Study:
        """The trainings that these options request.

        Raises InputError if the store has no such space or version, or if the version cannot be trained on.
        """
        store = one_space(place(self.store), self.space)
        check_space(store)
        version = version_record(chosen_version(store, self.version))
        classes = index_order(self.classes, version.classes)
        check_trainable(version.classes, classes, only_reads=True)
        version = version.of_classes(classes)
        space = stored_space(store)
        jobs = {job.name: job for job in self._jobs(space, version)}  # what a solver fits has no batch size
        return Study(space, version, tuple(jobs.values()), self.title)

    @abstractmethod
    def heads_to_try(self) -> list[dict[str, Any]]:
        """The fields of HeadSpec that say which heads are compared."""

    def _jobs(self, space: Space, version: VersionRecord) -> Iterator[HeadJob]:
        names = {field.name for field in fields(HeadSpec)} - {"classes", "batch_size", "standardize", "sampling"}
        names -= {"head_pooling", "l2"}
        shared = self.model_dump(include=names)
        standardize = {"both": (True, False), "yes": (True,), "no": (False,)}[self.standardize]
        sampling = ("shuffle", "bootstrap") if self.sampling == "both" else (self.sampling,)
        sizes = _different(self.batch_sizes, sum(version.classes["train"].values()))
        for head, seed, how, is_scaled, size in product(self.heads_to_try(), self.seeds, sampling, standardize, sizes):
            own = {"batch_size": size, "standardize": is_scaled, "sampling": how}
            spec = HeadSpec(classes=version.class_names, **head, **own, **shared)
            if spec.has_epochs or seed == self.seeds[0]:  # a solver finds the same weights with every seed
                yield head_job(space, version, spec, seed, promote="never")


class BatchSizeStudyOptions(StudyOptions):
    """Parameters of `batch-size-study`: one kind of head."""

    title: ClassVar[str] = "Batch sizes"

    head: Literal["mlp", "linear", "pooled"] = Field("mlp", title="training", description="kind of head")
    out: str = Field(
        "./batch-size-study",
        title="running",
        validate_default=True,
        description="folder for study.md, study.csv, study.json and study.png",
    )

    def heads_to_try(self) -> list[dict[str, Any]]:
        return [{"kind": self.head}]


class HeadStudyOptions(StudyOptions):
    """Parameters of `head-study`: kinds of heads, their poolings and regularisations."""

    title: ClassVar[str] = "Heads"

    batch_sizes: BatchSizes = Field((128,), title="study", description="batch sizes to train with")
    standardize: Literal["both", "yes", "no"] = Field(
        "yes", title="study", description="yes: standardised features; no: raw features"
    )
    sampling: Literal["both", "shuffle", "bootstrap"] = Field(
        "shuffle", title="study", description="shuffle: each image once per pass; bootstrap: drawn with replacement"
    )
    epochs: int = Field(20, ge=1, le=LARGEST_COUNT, title="training", description="passes over the training images")
    heads: Kinds = Field(("mlp", "pooled", "logistic"), title="study", description="kinds of heads to compare")
    head_poolings: Poolings = Field(
        ("avg+max",), title="study", description="poolings inside pooled and logistic heads"
    )
    l2: Strengths = Field(
        ("auto",), title="study", description="L2 regularisations of logistic heads; auto: chosen by cross-validation"
    )
    out: str = Field(
        "./head-study",
        title="running",
        validate_default=True,
        description="folder for study.md, study.csv, study.json and study.png",
    )

    def heads_to_try(self) -> list[dict[str, Any]]:
        found = []
        for kind in self.heads:
            poolings = self.head_poolings if kind in ("pooled", "logistic") else (HeadSpec.head_pooling,)
            strengths = self.l2 if kind == "logistic" else ("auto",)
            for pooling, strength in product(poolings, strengths):
                found.append({"kind": kind, "head_pooling": pooling, "l2": None if strength == "auto" else strength})
        return found
