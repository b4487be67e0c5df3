"""The parameters of `watch-images`."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from flows.options.paths import check_path
from flows.options.pipeline import PipelineOptions
from storage.backend.paths import Place, place
from storage.errors import InputError
from storage.layout import Store
from storage.source.scan import check_folder, scan_folder
from storage.source.scan_table import Scan
from storage.source.unlabelled import scan_inbox
from storage.watching.arrivals import WatchTiming
from storage.watching.notifier import How

Seconds = Annotated[float, Field(gt=0)]


class WatchOptions(pydantic.BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """Parameters of `watch-images`. The `title` of a field is the group of its flag in --help."""

    images: str | None = PipelineOptions.model_fields["images"]
    store: str = Field(
        "./store",
        title="input",
        validate_default=True,
        description="store in whose cache the watcher remembers what it has announced",
    )
    layout: Literal["auto", "classes", "splits", "none"] = Field(
        "auto",
        title="input",
        description="how folders give labels; auto: inspect the folders; none: images have no labels, as `predict` takes them",
    )
    labels: str | None = PipelineOptions.model_fields["labels"]
    outside_links: bool = PipelineOptions.model_fields["outside_links"]

    how: How = Field(
        "auto",
        title="running",
        description="events: kernel events; listing: repeated listings; auto: events for folders on a local disk, otherwise listings",
    )
    quiet_seconds: Seconds = Field(3, title="running", description="announce once nothing has changed for N seconds")
    most_seconds: Seconds = Field(
        60, title="running", description="announce complete images at least every N seconds while others keep arriving"
    )
    poll_seconds: Seconds = Field(
        60, title="running", description="seconds between listings; longer if listing is slow"
    )
    hours: float | None = Field(None, gt=0, title="running", description="stop after N hours; default: never")

    _paths = pydantic.field_validator("images", "store", "labels")(check_path)

    @pydantic.model_validator(mode="after")
    def _has_labels_or_none(self) -> Self:
        if self.layout == "none" and self.labels is not None:
            raise ValueError("--labels: --layout none means images without labels; leave one of them out")
        return self

    @property
    def folder(self) -> Place:
        """The image folder, as in the pipeline. Raises InputError if none was given."""
        if self.images is None:
            raise InputError("--images: the folder of images is missing")
        return place(self.images)

    def watched(self) -> Store:
        """The store in whose cache the watcher records what it has announced."""
        return Store(place(self.store), "")

    def timing(self) -> WatchTiming:
        """How long the watcher waits before it announces or lists again."""
        return WatchTiming(self.quiet_seconds, self.most_seconds, self.poll_seconds)

    def check(self) -> None:
        """Raise InputError if the folder cannot be listed. No store must be free."""
        self.scan()

    def scan(self) -> Scan:
        """Scan the folder. Raises InputError if it cannot be listed or its layout is ambiguous."""
        if self.layout == "none":
            check_folder(self.folder)
            return scan_inbox(self.folder, self.outside_links).scan
        return scan_folder(self.folder, self.layout, place(self.labels) if self.labels else None, self.outside_links)
