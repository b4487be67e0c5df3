"""The parameters that say how a run works. None of them changes a feature."""

from typing import Self

import pydantic
from pydantic import Field

from flows.options.field_types import Fraction
from storage.shards.shard import MAX_ROWS, Format
from vision.engines.selection import EngineName
from vision.specs import FeatureSpec
from workers.devices import Placement, placement
from workers.runners.base import RunnerName


class ChildOptions(pydantic.BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """Where jobs run, and in how many slots."""

    runner: RunnerName = Field(
        "local",
        title="running",
        description="where jobs run; local: child processes; inline: this process, without isolation or time-outs",
    )
    workers: int | None = Field(
        None,
        ge=1,
        title="running",
        description="number of extraction processes; default: one per GPU, or one per physical core as far as memory allows",
    )

    @pydantic.model_validator(mode="after")
    def _has_a_slot_for_each_worker(self) -> Self:
        if self.runner == "inline" and (self.workers or 1) > 1:
            raise ValueError(f"--workers: --runner inline has one worker, got {self.workers}; leave --workers out")
        return self

    def placement(self, engine: str, spec: FeatureSpec) -> Placement:
        """The slots of a run. They depend on the free memory, so a run asks before it starts children."""
        return placement(1 if self.runner == "inline" else self.workers, engine, spec)


class SlotOptions(ChildOptions):
    """What computes, and in how many slots."""

    engine: EngineName = Field(
        "auto",
        title="running",
        description="library that computes the features; auto: tensorflow on a GPU, otherwise the fastest as measured on this machine, or mnn if it can compute the features and nothing was measured",
    )


class RunningOptions(SlotOptions):
    """The group `running` of the pipeline's parameters."""

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
