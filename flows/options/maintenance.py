"""The parameters of `store-maintenance`."""

import pydantic
from pydantic import Field

from flows.options.paths import check_path
from flows.options.pipeline import PipelineOptions
from storage.backend.paths import place
from storage.layout import Store
from storage.maintenance.collect import GRACE_HOURS
from storage.maintenance.compact import ROWS_A_SHARD, CompactOptions
from storage.maintenance.target import Target
from storage.shards.shard import MAX_ROWS

# Maintenance runs each night. With a lower threshold, a few deleted photos spread over a large store would make it
# rewrite the whole store.
DEAD_FRACTION = 0.5


class MaintenanceOptions(pydantic.BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """Parameters of `store-maintenance`. The `title` of a field is the group of its flag in --help."""

    store: str = PipelineOptions.model_fields["store"]
    space: str = Field("", title="input", description="first digits of a feature space; default: all")

    deep: bool = Field(False, title="running", description="read every byte of every shard and head")
    rows: int = Field(ROWS_A_SHARD, ge=1, le=MAX_ROWS, title="running", description="rows of a full shard")
    keep: int = Field(10, ge=1, title="running", description="number of versions to keep")
    grace: float = Field(
        GRACE_HOURS, ge=0, title="running", description="keep what was written or used within the last N hours"
    )
    wait: float = PipelineOptions.model_fields["wait"]

    _paths = pydantic.field_validator("store")(check_path)

    def check(self) -> Store:
        """Raise InputError if there is no store, or it lacks the requested feature space. Returns what must be free."""
        return self.target().stores()[0]

    def target(self, wait_seconds: float | None = None) -> Target:
        """The store and feature space to maintain. wait_seconds: overrides --wait."""
        return Target(place(self.store), self.space, self.wait if wait_seconds is None else wait_seconds)

    def compaction(self) -> CompactOptions:
        """The options of `compact`."""
        return CompactOptions(self.rows, DEAD_FRACTION)
