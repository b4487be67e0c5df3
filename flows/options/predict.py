"""The parameters of `predict`."""

import os
from pathlib import Path
from typing import Self

import pydantic
from pydantic import Field

from flows.options.head import HeadOptions
from flows.options.paths import check_path
from flows.options.roots import IMAGE_ROOTS, can_lead_out
from storage.backend.paths import Place, place
from storage.errors import InputError
from storage.layout import Store
from storage.predictions.output import Columns, check_out, check_place
from storage.predictions.pieces import pieces_folder
from storage.source.unlabelled import check_target, is_list
from workers.jobs.records import Space
from workers.jobs.spaces import computable_space


class PredictOptions(HeadOptions):
    """Parameters of `predict`. The `title` of a field is the group of its flag in --help."""

    # In a group of its own: an installation hands the pipeline's input to every deployment, but this means something else here.
    images: str | None = Field(
        None,
        title="prediction",
        description="folder of images of any depth, one image, or a .txt file with one path per line; also s3://bucket/prefix or gs://bucket/prefix",
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

    _out_paths = pydantic.field_validator("images", "out")(check_path)

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
        if self.keep_features and self.opened.is_whole:
            raise InputError(
                f"`keep_features`: head {self.opened.name} is fine-tuned, and computes no features of the store; leave it out"
            )
        self.check_engine(self.opened)
        return self.space().store

    @property
    def target(self) -> Place:
        """The folder, image or list of images, absolute."""
        return place(self.images or "")

    @property
    def file(self) -> Path:
        """The file of predictions, absolute."""
        return Path(os.path.abspath(self.out or ""))

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
