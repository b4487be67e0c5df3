"""Logs of a resumable training: rows that a dead run wrote after its checkpoint are removed."""

import csv
import os
from collections.abc import Callable
from pathlib import Path


def keep_rows(path: Path, is_kept: Callable[[list[str]], bool]) -> None:
    """Drop rows of a CSV file that are incomplete or not to be kept. The header stays."""
    if not path.exists():
        return
    with open(path, newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    temporary = path.with_suffix(".writing")
    with open(temporary, "w", newline="") as file:
        csv.writer(file).writerows([header, *(row for row in rows if len(row) == len(header) and is_kept(row))])
    os.replace(temporary, path)


class StepLog:
    """`steps.csv`: one row per step with its epoch and number, both counted from 0, and the loss of its batch.

    The loss has nine digits, which distinguish every float32 from its neighbours.
    """

    HEADER = ("epoch", "step", "loss")

    def __init__(self, path: Path, epoch: int, step: int):
        """Resume at this step. The file keeps the rows before it."""
        keep_rows(path, lambda row: (int(row[0]), int(row[1])) < (epoch, step))
        is_new = not path.exists()
        self._file = open(path, "a", newline="")  # noqa: SIM115
        self._writer = csv.writer(self._file)
        if is_new:
            self._writer.writerow(self.HEADER)

    def add(self, epoch: int, step: int, loss: float) -> None:
        """Append the row of a step."""
        self._writer.writerow((epoch, step, f"{loss:.9g}"))

    def flush(self) -> None:
        """Write the rows so far to the file."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()
