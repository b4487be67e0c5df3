"""The parameters of `batch-size-study`."""

import os
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

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
from vision.training.head import ClassWeight, HeadSpec, Optimizer
from workers.jobs.head_identity import check_trainable
from workers.jobs.records import Space, VersionRecord
from workers.jobs.spaces import head_job, stored_space, version_record
from workers.runners.base import RunnerName


def _several(value: Any) -> Any:
    """Turn `8,32`, a list or one number into a list."""
    found = value.split(",") if isinstance(value, str) else value
    return found if isinstance(found, list | tuple) else [found]


def _numbers_of(kind: Any) -> Any:
    """The type of a tuple of distinct numbers."""
    written = pydantic.BeforeValidator(_several, json_schema_input_type=str | tuple[kind, ...] | kind)
    once = pydantic.AfterValidator(lambda numbers: tuple(dict.fromkeys(numbers)))
    return Annotated[tuple[kind, ...], Field(min_length=1), written, once]


BatchSizes = _numbers_of(Annotated[int, Field(ge=1)])
Seeds = _numbers_of(Annotated[int, Field(ge=0, le=LARGEST_SEED)])


def _as_in_the_pipeline(name: str) -> Any:
    return PipelineOptions.model_fields[name]


def _different(sizes: tuple[int, ...], images: int) -> list[int]:
    """The batch sizes that train differently: of those that hold every image, only the smallest stays."""
    largest = min((size for size in sizes if size >= images), default=0)
    return [size for size in sizes if size < images or size == largest]


class StudyOptions(pydantic.BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """Parameters of `batch-size-study`. The `title` of a field is the group of its flag in --help."""

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

    head: Literal["mlp", "linear", "pooled"] = Field("mlp", title="training", description="kind of head")
    epochs: int = Field(5, ge=1, le=LARGEST_COUNT, title="training", description="passes over the training images")
    steps_per_epoch: int | None = _as_in_the_pipeline("steps_per_epoch")
    optimizer: Optimizer = _as_in_the_pipeline("optimizer")
    learning_rate: float | None = _as_in_the_pipeline("learning_rate")
    patience: int | None = _as_in_the_pipeline("patience")
    class_weight: ClassWeight = _as_in_the_pipeline("class_weight")
    shuffle_memory_mb: int = _as_in_the_pipeline("shuffle_memory_mb")

    out: str = Field(
        "./batch-size-study",
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
        return Study(space, version, tuple(self._jobs(space, version)))

    def _jobs(self, space: Space, version: VersionRecord):
        names = {field.name for field in fields(HeadSpec)} - {"classes", "batch_size", "standardize", "sampling"}
        shared = self.model_dump(include=names)
        standardize = {"both": (True, False), "yes": (True,), "no": (False,)}[self.standardize]
        sampling = ("shuffle", "bootstrap") if self.sampling == "both" else (self.sampling,)
        sizes = _different(self.batch_sizes, sum(version.classes["train"].values()))
        for seed, how, is_scaled, size in product(self.seeds, sampling, standardize, sizes):
            own = {"batch_size": size, "standardize": is_scaled, "sampling": how}
            spec = HeadSpec(classes=version.class_names, kind=self.head, **own, **shared)
            yield head_job(space, version, spec, seed, promote="never")
