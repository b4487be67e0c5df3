"""The parameters of `evaluate`."""

import os
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import pydantic
from pydantic import Field

from flows.options.head import HeadOptions
from flows.options.paths import check_path
from storage.backend.output import check_writable
from storage.backend.paths import place
from storage.errors import InputError
from storage.layout import Store
from storage.predictions.pieces import pieces_folder
from storage.source.folder_layout import Layout
from storage.source.scan import check_folder
from storage.text import first_few
from vision.errors import WeightsError
from workers.jobs.evaluate import FIGURES
from workers.jobs.opened_head import OpenedHead, open_head
from workers.jobs.records import Space
from workers.jobs.spaces import computable_space, stored_space


class EvaluateOptions(HeadOptions):
    """Parameters of `evaluate`. The `title` of a field is the group of its flag in --help."""

    images: str | None = Field(
        None,
        title="prediction",
        description="folder of labelled images, as in the pipeline; with --split the folder that has the files of the version",
    )
    labels: str | None = Field(
        None,
        title="prediction",
        description=".csv or .parquet table with columns path and class, used instead of folder names",
    )
    layout: Layout = Field("auto", title="prediction", description="how folders give labels; auto inspects them")
    split: Literal["train", "validation", "test"] | None = Field(
        None, title="prediction", description="evaluate the images of a split, from their stored features"
    )
    version: int | None = Field(
        None, ge=1, title="prediction", description="version of the split; default: that on which the head was trained"
    )
    against: str = Field("", title="prediction", description="name of another head to compare with, on the same images")
    out: str = Field(
        "./evaluation",
        title="output",
        validate_default=True,
        description="folder for report.html and evaluation.json",
    )

    _evaluation_paths = pydantic.field_validator("images", "labels", "out")(check_path)

    @pydantic.model_validator(mode="after")
    def _says_what(self) -> Self:
        if self.images is None and self.split is None:
            raise ValueError("--images or --split: name a folder of labelled images, or a split of a version")
        if self.split and (self.labels or self.layout != "auto"):
            raise ValueError("--split: a version has the labels of its images; leave out --labels and --layout")
        if self.version and not self.split:
            raise ValueError("--version: name the split of the version with --split")
        if "://" in self.out or (self.folder.exists() and not self.folder.is_dir()):
            raise ValueError(
                f"--out: {self.out} is not a local folder; name a folder or a path that does not exist yet"
            )
        return self

    def check(self) -> Store:
        """Raise InputError if a head, the images or the folder cannot be used. Returns the store."""
        if self.images is not None:
            check_folder(place(self.images))
        check_writable(self.folder, "no file")
        for head in self.heads:
            self.check_engine(head)
        return self.spaces()[0].store

    def source(self, version: int | None) -> str:
        """What is evaluated, for a reader. version: that of the split."""
        return f"the {self.split} images of version {version}" if self.split else f"the images of {self.images}"

    @property
    def folder(self) -> Path:
        """The output folder, absolute."""
        return Path(os.path.abspath(self.out))

    def pieces(self, head: OpenedHead) -> Path:
        """The folder of a head's predictions in the store's cache."""
        return pieces_folder(Store(self.root, head.fingerprint), head.name, self.folder / FIGURES)

    @cached_property
    def heads(self) -> tuple[OpenedHead, ...]:
        """The head, and the one to compare with. Raises InputError if there is none, or their classes differ."""
        if not self.against:
            return (self.opened,)
        other = open_head(self.root, self.against)
        if other.name == self.opened.name:
            raise InputError(f"--against: {other.name} is the head itself; name another one")
        if set(other.classes) != set(self.opened.classes):
            raise InputError(
                f"--against: head {other.name} has the classes {first_few(other.classes)}, and head {self.opened.name} has "
                f"{first_few(self.opened.classes)}; only heads of the same classes can be compared"
            )
        return self.opened, other

    def spaces(self) -> list[Space]:
        """The feature space of each head, with weights, or without those if a split may need none.

        Raises InputError if a space lacks weights, WeightsError if those given are of neither head.
        """
        takers = [head for head in self.heads if self._takes_weights(head)] if self.weights else []
        if self.weights and not takers:
            raise WeightsError(
                f"`weights`: the features of {self.opened.name} were computed with others than {self.weights}"
            )
        return [self._space(head, self.weights if head in takers else None) for head in self.heads]

    def _takes_weights(self, head: OpenedHead) -> bool:
        try:
            return bool(computable_space(self.root, head.spec, self.weights))
        except WeightsError:
            if len(self.heads) == 1:
                raise
            return False

    def _space(self, head: OpenedHead, weights: str | None) -> Space:
        try:
            return computable_space(self.root, head.spec, weights)
        except InputError:
            if self.split is None:
                raise
            return stored_space(Store(self.root, head.fingerprint))
