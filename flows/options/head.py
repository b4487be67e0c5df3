"""The parameters that `predict` and `evaluate` share: the head, and how its predictions are computed."""

from functools import cached_property

import pydantic
from pydantic import Field

from flows.options.field_types import Fraction, OutsideLinks
from flows.options.paths import check_path
from flows.options.pipeline import PipelineOptions
from flows.options.running import SlotOptions
from storage.backend.paths import Place, place
from storage.shards.shard import MAX_ROWS
from vision.engines.selection import choose
from workers.devices import visible_gpus
from workers.jobs.opened_head import OpenedHead, open_head


class ChosenHead(pydantic.BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """The parameters that say which head of which store."""

    store: str = Field(
        "./store", title="input", validate_default=True, description="store that a run of the pipeline wrote"
    )
    # Not in the group `input`: an installation hands that to every deployment, and the pipeline's `head` is a kind of head.
    head: str = Field("", title="prediction", description="name of the head; default: the current one")
    outside_links: OutsideLinks = PipelineOptions.model_fields["outside_links"]  # type: ignore[assignment]
    rehash: bool = PipelineOptions.model_fields["rehash"]  # type: ignore[assignment]
    weights: str | None = Field(
        None,
        title="input",
        description="imagenet, random, or a Keras weights file; needed once for a store of an older version, which keeps it",
    )

    _head_paths = pydantic.field_validator("store", "weights")(check_path)

    @property
    def root(self) -> Place:
        """The root of the store."""
        return place(self.store)

    @cached_property
    def opened(self) -> OpenedHead:
        """The head. Raises InputError if there is none, StoreDamaged if it is damaged."""
        return open_head(self.root, self.head or None)


# Pydantic puts the fields of the last base first, and --help shows them so.
class HeadOptions(SlotOptions, ChosenHead):
    """Parameters of a flow that uses a head. The `title` of a field is the group of its flag in --help."""

    chunk_size: int | None = Field(
        None,
        ge=1,
        le=MAX_ROWS,
        title="running",
        description="images per piece of work; default: chosen by their number",
    )
    max_bad_fraction: Fraction = PipelineOptions.model_fields["max_bad_fraction"]  # type: ignore[assignment]

    def check_engine(self, head: OpenedHead) -> None:
        """Raise SpecError if the engine cannot compute the features of a head."""
        if not head.is_whole:
            choose(self.engine, head.spec, bool(visible_gpus()))
