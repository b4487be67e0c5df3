"""Write the file of predictions of a run, and count what it says."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa

from storage.predictions.output import Columns, read_output, without, write_output
from storage.predictions.pieces import remove_pieces
from workers.jobs.prediction_plan import InboxRecord, PredictionPlan, answers, names_of


@dataclass(frozen=True)
class Written:
    """Counts of the rows of this run. statuses, predicted: status and class → number of images. rows: of the whole file."""

    rows: int
    statuses: dict[str, int]
    predicted: dict[str, int]


def write_predictions(
    inbox: InboxRecord, plan: PredictionPlan, columns: Columns, out: Path, append: bool = False
) -> Written:
    """Write one row per image to `out`, and remove the pieces, which the file then replaces.

    append: keep the rows of an existing file whose images are not among those of this run, and the pieces of this head, by
    which the next run knows the images of this one.
    """
    statuses: Counter[str] = Counter()
    predicted: Counter[str] = Counter()

    def counted() -> Iterator[pa.Table]:
        for table in answers(inbox, plan, columns):
            statuses.update(table["status"].to_pylist())
            predicted.update(name for name in table["class"].to_pylist() if name is not None)
            yield table

    rows = write_output(out, columns.schema, chain(_earlier(inbox, columns, out) if append else (), counted()))
    remove_pieces(Path(plan.pieces), keep=append)
    return Written(rows, dict(statuses), dict(predicted))


def _earlier(inbox: InboxRecord, columns: Columns, out: Path) -> Iterator[pa.Table]:
    """The rows of an existing file whose images are not in the inbox."""
    if out.exists():
        own = names_of(inbox)
        yield from (without(table, own) for table in read_output(out, columns.schema))
