"""The file of predictions: CSV, JSON lines or Parquet, one row per image, written as a whole or not at all."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from storage.backend.output import check_writable, replacing
from storage.errors import InputError
from storage.text import first_few

SUFFIXES = (".csv", ".jsonl", ".parquet")
ROWS_AT_A_TIME = 10_000
FIXED = [
    pa.field("path", pa.string()),
    pa.field("class", pa.string()),
    pa.field("probability", pa.float32()),
    pa.field("status", pa.string()),
    pa.field("reason", pa.string()),
]


@dataclass(frozen=True)
class Columns:
    """The columns of the file: `path, class, probability, status, reason`, then those that depend on the classes.

    classes: in index order. top_k: None for a column `p.<class>` for each class; else the next probable classes as
    `class.2, probability.2` to `class.<k>, probability.<k>`.
    """

    classes: tuple[str, ...]
    top_k: int | None = None

    @property
    def schema(self) -> pa.Schema:
        if self.top_k is None:
            return pa.schema([*FIXED, *(pa.field(f"p.{name}", pa.float32()) for name in self.classes)])
        places = range(2, min(self.top_k, len(self.classes)) + 1)
        pairs = ((f"class.{place}", pa.string(), f"probability.{place}", pa.float32()) for place in places)
        return pa.schema([*FIXED, *(field for a, b, c, d in pairs for field in (pa.field(a, b), pa.field(c, d)))])

    def rows(self, paths: pa.Array, statuses: pa.Array, reasons: pa.Array, probabilities: np.ndarray) -> pa.Table:
        """The table of n images. probabilities: (n, classes) float32; NaN where the status is not `ok`."""
        is_ok = ~np.isnan(probabilities).any(axis=1)
        order = np.argsort(-np.where(is_ok[:, None], probabilities, 0), axis=1, kind="stable")
        names = pa.array(self.classes, pa.string())

        def ranked(place: int) -> tuple[pa.Array, pa.Array]:
            at = order[:, place]
            best = np.take_along_axis(probabilities, at[:, None], axis=1)[:, 0]
            return names.take(pa.array(at, mask=~is_ok)), pa.array(best, pa.float32(), mask=~is_ok)

        columns = [paths, *ranked(0), statuses, reasons]
        if self.top_k is None:
            columns += [pa.array(column, pa.float32(), mask=~is_ok) for column in probabilities.T]
        else:
            columns += [one for place in range(1, min(self.top_k, len(self.classes))) for one in ranked(place)]
        return pa.Table.from_arrays(columns, schema=self.schema)


def check_out(path: Path, columns: Columns, overwrite: bool = False, append: bool = False) -> None:
    """Raise InputError if the file cannot be written there, or exists and neither `overwrite` nor `append` is given."""
    check_place(path)
    if path.exists() and append:
        check_columns(path, columns)
    elif path.exists() and not overwrite:
        raise InputError(f"`out`: {path} exists; replace it with `overwrite`, or add new images to it with `append`")


def check_place(path: Path) -> None:
    """Raise InputError if no file of predictions can be written there."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"`out`: {path} should end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if path.is_dir():
        raise InputError(f"`out`: {path} is a folder; name a file in it")
    check_writable(path.parent, "no file")


def check_columns(path: Path, columns: Columns) -> None:
    """Raise InputError if a file of predictions has other columns."""
    new = columns.schema.names
    try:
        found = _names(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"`out`: {path} cannot be read, so nothing can be added to it ({reason})") from error
    if found and found != new:
        raise InputError(
            f"`out`: {path} has the columns {first_few(found, 12)}, and this head gives {first_few(new, 12)}; name another file, or replace "
            "this one with `overwrite`"
        )


def write_output(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Write the tables to `path` in the format of its suffix, and return the number of rows. The file appears complete."""
    rows = 0
    with replacing(path) as aside, WRITERS[path.suffix.lower()](aside, schema) as write:
        for table in tables:
            write(table)
            rows += table.num_rows
    return rows


def read_output(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of a file of predictions, some thousands at a time."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(ROWS_AT_A_TIME):
            yield pa.Table.from_batches([batch]).cast(schema)
    elif suffix == ".csv":
        options = pyarrow.csv.ConvertOptions(
            column_types=schema, strings_can_be_null=True, quoted_strings_can_be_null=False
        )
        if _names(path):
            for batch in pyarrow.csv.open_csv(path, convert_options=options):
                yield pa.Table.from_batches([batch])
    else:
        with path.open(encoding="utf-8") as file:
            while rows := [json.loads(line) for line, _ in zip(file, range(ROWS_AT_A_TIME), strict=False)]:
                yield pa.Table.from_pylist(rows, schema=schema)


def without(table: pa.Table, paths: pa.Array) -> pa.Table:
    """The rows of other paths."""
    return table.filter(pc.invert(pc.is_in(table["path"], paths)))


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        yield writer.write_table


@contextmanager
def _csv(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    with pyarrow.csv.CSVWriter(path, schema) as writer:
        yield writer.write_table


@contextmanager
def _jsonl(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    with path.open("x", encoding="utf-8") as file:

        def write(table: pa.Table) -> None:
            for row in table.to_pylist():
                file.write(f"{json.dumps(_rounded(row), ensure_ascii=False, allow_nan=False)}\n")

        yield write


WRITERS: dict[str, Any] = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Floats with the nine digits that tell float32 numbers apart."""
    return {
        key: float(f"{value:.9g}") if isinstance(value, float) and math.isfinite(value) else value
        for key, value in row.items()
    }


def _names(path: Path) -> Sequence[str]:
    """The names of the columns; empty if the file has no rows to tell them."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return pyarrow.parquet.read_schema(path).names
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    if suffix == ".csv":
        return pyarrow.csv.read_csv(pa.py_buffer(first.encode())).column_names if first else []
    return list(json.loads(first)) if first else []
