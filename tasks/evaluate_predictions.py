"""Task `evaluate_predictions`: computes the figures of heads from their predictions, and writes the report."""

from collections.abc import Sequence
from pathlib import Path

from prefect import task

from tasks.caching import RETRY
from workers.jobs.evaluate import Evaluated, evaluate
from workers.jobs.labelled import LabelledRecord
from workers.jobs.opened_head import OpenedHead
from workers.jobs.prediction_plan import PredictionPlan


@task(name="evaluate_predictions", **RETRY, cache_policy=None)
def evaluate_predictions(
    listed: LabelledRecord, heads: Sequence[OpenedHead], plans: Sequence[PredictionPlan], out: Path, source: str
) -> Evaluated:
    """Evaluate one head, or compare two, and write `report.html` and `evaluation.json` to a folder."""
    return evaluate(listed, heads, plans, out, source)
