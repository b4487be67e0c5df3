"""The parameters of `flows/export.py`."""

import os
from pathlib import Path
from typing import Self

import pydantic
from pydantic import Field

from flows.options.paths import check_path
from flows.options.pipeline import PipelineOptions
from storage.backend.output import check_output
from storage.backend.paths import Place, place
from storage.errors import InputError
from vision.export.formats import FORMATS, ExportFormat, FormatName
from workers.runners.base import RunnerName


class ExportOptions(pydantic.BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """Parameters of an export. The `title` of a field is the group of its flag in --help."""

    store: str = Field("./store", title="input", description="store that a run of the pipeline wrote")
    head: str = Field("", title="input", description="name of the head; default: the current one")
    weights: str | None = Field(
        None,
        title="input",
        description="imagenet, random, or a Keras weights file; needed once for a store of an older version, which keeps it",
    )
    format: FormatName | None = Field(None, title="output", description="format of the model; required")
    out: str | None = Field(
        None, title="output", description="file or, for saved_model, folder to write, on this machine; required"
    )
    overwrite: bool = Field(False, title="output", description="replace an earlier export")
    runner: RunnerName = PipelineOptions.model_fields["runner"]  # type: ignore[assignment]

    _paths = pydantic.field_validator("store", "out", "weights")(check_path)

    @pydantic.model_validator(mode="after")
    def _says_what_and_where(self) -> Self:
        if self.format is None:
            raise ValueError(f"--format: name the format of the model: {', '.join(FORMATS)}")
        if not self.out:
            raise ValueError(f"--out: name the {self.kind} to write")
        if "://" in self.out:
            raise ValueError(f"--out: {self.out} is not on this machine; name a local {self.kind} and upload it")
        suffix = Path(self.out).suffix.lower()
        foreign = [one.suffix for one in FORMATS.values() if one.suffix]
        if suffix != self.target.suffix and (self.target.suffix or suffix in foreign):
            right = Path(self.out).with_suffix(self.target.suffix)
            raise ValueError(f"--out: {self.out} should be a {self.kind}, for example {right}")
        return self

    def check(self) -> None:
        """Raise InputError if nothing can be written, or a package is missing."""
        check_output(self.path, self.target.mark, self.overwrite)
        if self.target.missing:
            raise InputError(f"`format={self.format}` needs a package that is not installed: {self.target.missing}")

    @property
    def kind(self) -> str:
        """What the format writes, in words."""
        return f"file that ends in {self.target.suffix}" if self.target.suffix else "folder without a suffix"

    @property
    def target(self) -> ExportFormat:
        """The format."""
        assert self.format
        return FORMATS[self.format]

    @property
    def root(self) -> Place:
        """The root of the store."""
        return place(self.store)

    @property
    def path(self) -> Path:
        """What to write, absolute. A link is followed, so that it stays."""
        return Path(os.path.realpath(self.out or ""))
