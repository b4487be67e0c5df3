"""Task `plan_predictions`: finds which images have no prediction yet, and which of those have stored features."""

from pathlib import Path

from prefect import task

from tasks.caching import RETRY
from workers.jobs.opened_head import OpenedHead
from workers.jobs.prediction_plan import InboxRecord, PredictionPlan, make_plan
from workers.jobs.records import Space


@task(name="plan_predictions", **RETRY, cache_policy=None)
def plan_predictions(
    space: Space,
    inbox: InboxRecord,
    head: OpenedHead,
    pieces: str,
    keep_features: bool,
    chunk_size: int | None,
    use_stored: bool = True,
    version: int | None = None,
) -> PredictionPlan:
    """Plan the predictions of a head for listed images; see `make_plan` for the arguments."""
    return make_plan(space, inbox, head, Path(pieces), keep_features, chunk_size, use_stored, version)
