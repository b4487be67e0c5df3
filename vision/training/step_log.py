"""The logs of a training that can be gone on with: what a dead run has written beyond its checkpoint is cut off."""

import csv
import os
from collections.abc import Callable
from pathlib import Path


def keep_rows(path: Path, is_kept: Callable[[list[str]], bool]) -> None:
    """Drop the rows of a CSV file, header aside, that are not to be kept or not whole."""
    if not path.exists():
        return
    with open(path, newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    temporary = path.with_suffix(".writing")
    with open(temporary, "w", newline="") as file:
        csv.writer(file).writerows([header, *(row for row in rows if len(row) == len(header) and is_kept(row))])
    os.replace(temporary, path)


class StepLog:
    """`steps.csv`: epoch, step and the loss of that step's batch, one row a step, both counted from 0.

    The loss is written with the nine digits that tell every float32 from its neighbours.
    """

    HEADER = ("epoch", "step", "loss")

    def __init__(self, path: Path, epoch: int, step: int):
        """Go on at this step; the file keeps the rows before it."""
        keep_rows(path, lambda row: (int(row[0]), int(row[1])) < (epoch, step))
        is_new = not path.exists()
        self._file = open(path, "a", newline="")  # noqa: SIM115
        self._writer = csv.writer(self._file)
        if is_new:
            self._writer.writerow(self.HEADER)

    def add(self, epoch: int, step: int, loss: float) -> None:
        self._writer.writerow((epoch, step, f"{loss:.9g}"))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
