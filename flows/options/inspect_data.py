"""The parameters of `inspect-data`."""

import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

import pydantic
from pydantic import Field

from flows.options.paths import check_path
from flows.options.running import ChildOptions
from storage.backend.output import check_writable
from storage.backend.paths import Place, place
from storage.errors import InputError
from storage.layout import Store
from storage.manifest.select import chosen_version, one_space
from storage.manifest.versions import Version
from storage.shards.shard import MAX_ROWS
from storage.source.scan import check_folder
from storage.source.scan_files import last_root
from workers.jobs.inspection_files import REPORT
from workers.jobs.records import Space
from workers.jobs.spaces import stored_space


class InspectOptions(ChildOptions):
    """Parameters of `inspect-data`. The `title` of a field is the group of its flag in --help."""

    images: str | None = Field(
        None,
        title="input",
        description="folder with the images of the store; default: that of the last run on this machine",
    )
    store: str = Field(
        "./store", title="input", validate_default=True, description="store that a run of the pipeline wrote"
    )
    space: str = Field("", title="inspection", description="fingerprint of the feature space, or its beginning")
    version: int | None = Field(None, ge=1, title="inspection", description="version to inspect; default: the newest")
    out: str = Field(
        "./inspection",
        title="output",
        validate_default=True,
        description="folder for report.html, findings.parquet, findings.csv and review.csv",
    )
    chunk_size: int | None = Field(
        None,
        ge=1,
        le=MAX_ROWS,
        title="running",
        description="images per piece of work; default: chosen by their number",
    )

    _paths = pydantic.field_validator("images", "store", "out")(check_path)

    @pydantic.model_validator(mode="after")
    def _names_a_folder(self) -> Self:
        if "://" in self.out or (self.folder.exists() and not self.folder.is_dir()):
            raise ValueError(
                f"--out: {self.out} is not a local folder; name a folder or a path that does not exist yet"
            )
        return self

    @property
    def folder(self) -> Path:
        """The output folder, absolute."""
        return Path(os.path.abspath(self.out))

    @property
    def report(self) -> str:
        """The path of the report."""
        return str(self.folder / REPORT)

    def check(self) -> Store:
        """Raise InputError if the store, the images or the folder cannot be used. Returns the store."""
        check_writable(self.folder, "no file")
        check_folder(self.image_folder)
        _ = self.inspected  # there is such a version
        return self.feature_space.store

    @cached_property
    def image_folder(self) -> Place:
        """The folder of the images. Raises InputError if it is not known."""
        found = self.images or last_root(one_space(place(self.store), self.space))
        if found is None:
            raise InputError("--images: it is not known where the images of the store are; name their folder")
        return place(found)

    @cached_property
    def inspected(self) -> Version:
        """The version. Raises InputError if there is none."""
        return chosen_version(one_space(place(self.store), self.space), self.version)

    @cached_property
    def feature_space(self) -> Space:
        """The feature space, with the folder of its images."""
        return replace(stored_space(one_space(place(self.store), self.space)), images=str(self.image_folder))
