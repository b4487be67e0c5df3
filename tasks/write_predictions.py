"""Task `write_predictions`: writes the file of predictions, complete or not at all."""

from pathlib import Path

from prefect import task

from storage.predictions.output import Columns
from tasks.caching import RETRY
from workers.jobs.prediction_plan import InboxRecord, PredictionPlan
from workers.jobs.written_predictions import Written
from workers.jobs.written_predictions import write_predictions as write


@task(name="write_predictions", **RETRY, cache_policy=None)
def write_predictions(inbox: InboxRecord, plan: PredictionPlan, columns: Columns, out: str, append: bool) -> Written:
    """Write one row per image. append: rows of the existing file whose images are gone stay."""
    return write(inbox, plan, columns, Path(out), append)
