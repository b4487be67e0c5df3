"""The parameters of `predict`."""

import os
from functools import cached_property
from pathlib import Path
from typing import Self

import pydantic
from pydantic import Field

from flows.options.field_types import Fraction, OutsideLinks
from flows.options.paths import check_path
from flows.options.pipeline import PipelineOptions
from flows.options.roots import IMAGE_ROOTS, can_lead_out
from storage.backend.paths import Place, place
from storage.errors import InputError
from storage.layout import Store
from storage.predictions.output import Columns, check_out, check_place
from storage.predictions.pieces import pieces_folder
from storage.shards.shard import MAX_ROWS
from storage.source.unlabelled import check_target, is_list
from vision.engines.selection import EngineName, choose
from workers.devices import Placement, placement, visible_gpus
from workers.jobs.opened_head import OpenedHead, open_head
from workers.jobs.records import Space
from workers.jobs.spaces import computable_space
from workers.runners.base import RunnerName


class PredictOptions(pydantic.BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """Parameters of `predict`. The `title` of a field is the group of its flag in --help."""

    store: str = Field(
        "./store", title="input", validate_default=True, description="store that a run of the pipeline wrote"
    )
    # In groups of their own: an installation hands the pipeline's input to every deployment, but these mean something else here.
    images: str | None = Field(
        None,
        title="prediction",
        description="folder of images of any depth, one image, or a .txt file with one path per line; also s3://bucket/prefix or gs://bucket/prefix",
    )
    head: str = Field("", title="prediction", description="name of the head; default: the current one")
    outside_links: OutsideLinks = PipelineOptions.model_fields["outside_links"]  # type: ignore[assignment]
    rehash: bool = PipelineOptions.model_fields["rehash"]  # type: ignore[assignment]
    weights: str | None = Field(
        None,
        title="input",
        description="imagenet, random, or a Keras weights file; needed once for a store of an older version, which keeps it",
    )

    out: str | None = Field(None, title="output", description="file to write, which ends in .csv, .jsonl or .parquet")
    top_k: int | None = Field(
        None,
        ge=1,
        title="output",
        description="write the N most probable classes; default: the probability of every class",
    )
    overwrite: bool = Field(False, title="output", description="replace the file if it exists")
    append: bool = Field(
        False,
        title="output",
        description="add to the file if it exists: rows of files that are gone stay, and only new images are computed",
    )
    keep_features: bool = Field(
        False, title="output", description="store the features, for a later run of the pipeline on the same images"
    )

    engine: EngineName = PipelineOptions.model_fields["engine"]  # type: ignore[assignment]
    runner: RunnerName = PipelineOptions.model_fields["runner"]  # type: ignore[assignment]
    workers: int | None = PipelineOptions.model_fields["workers"]  # type: ignore[assignment]
    chunk_size: int | None = Field(
        None,
        ge=1,
        le=MAX_ROWS,
        title="running",
        description="images per piece of work; default: chosen by their number",
    )
    max_bad_fraction: Fraction = PipelineOptions.model_fields["max_bad_fraction"]  # type: ignore[assignment]

    _paths = pydantic.field_validator("store", "images", "out", "weights")(check_path)

    @pydantic.model_validator(mode="after")
    def _says_what_and_where(self) -> Self:
        if self.images is None:
            raise ValueError("--images: name the images to predict: a folder, an image, or a .txt file of paths")
        if self.out is None:
            raise ValueError("--out: name the file of predictions, which ends in .csv, .jsonl or .parquet")
        if "://" in self.out:
            raise ValueError(f"--out: {self.out} is not on this machine; name a local file and upload it")
        if self.overwrite and self.append:
            raise ValueError("--overwrite replaces the file and --append adds to it: give one of them")
        if self.runner == "inline" and (self.workers or 1) > 1:
            raise ValueError(f"--workers: --runner inline has one worker, got {self.workers}; leave --workers out")
        return self

    def check_places(self) -> None:
        """Raise InputError if there are no such images, or the file has another suffix or lies in no folder that can be written.

        Unlike `check` it needs no head, which the first run of the pipeline trains.
        """
        check_target(self.target)
        check_place(self.file)

    def check(self) -> Store:
        """Raise InputError if there is no head, or the images or the file cannot be used. Returns the store."""
        check_target(self.target)
        check_out(self.file, self.columns, self.overwrite, self.append)
        if can_lead_out(IMAGE_ROOTS) and is_list(self.target):
            raise InputError(
                f"`images`: a list may name files outside of the allowed roots; name a folder, or set {IMAGE_ROOTS}=/ where the worker starts"
            )
        self.check_engine()
        return self.space().store

    @property
    def root(self) -> Place:
        """The root of the store."""
        return place(self.store)

    @property
    def target(self) -> Place:
        """The folder, image or list of images, absolute."""
        return place(self.images or "")

    @property
    def file(self) -> Path:
        """The file of predictions, absolute."""
        return Path(os.path.abspath(self.out or ""))

    @cached_property
    def opened(self) -> OpenedHead:
        """The head. Raises InputError if there is none, StoreDamaged if it is damaged."""
        return open_head(self.root, self.head or None)

    @property
    def pieces(self) -> Path:
        """The folder of the run in the store's cache."""
        return pieces_folder(Store(self.root, self.opened.fingerprint), self.opened.name, self.file)

    @property
    def columns(self) -> Columns:
        """The columns of the file."""
        return Columns(self.opened.classes, self.top_k)

    def space(self) -> Space:
        """The feature space of the head, with weights. Raises InputError or WeightsError."""
        return computable_space(self.root, self.opened.spec, self.weights)

    def check_listed(self, files: int) -> None:
        """Raise InputError if there is no image. An inbox whose images are added to a file may be empty."""
        if not files and not self.append:
            raise InputError(f"`images`: there is no image in {self.target}")

    def check_engine(self) -> None:
        """Raise SpecError if the engine cannot compute the features of the head."""
        if not self.opened.is_whole:
            choose(self.engine, self.opened.spec, bool(visible_gpus()))

    def placement(self, engine: str) -> Placement:
        """The slots of the prediction."""
        return placement(1 if self.runner == "inline" else self.workers, engine, self.opened.spec)
