"""Columns for an export from a file of predictions or of findings: Parquet, CSV or JSON lines with a column `path`."""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from storage.errors import InputError
from storage.text import visible

READERS = {".parquet": pyarrow.parquet.read_table, ".csv": pyarrow.csv.read_csv, ".jsonl": pyarrow.json.read_json}


def predictions(path: Path) -> pa.Table:
    """`path`, `prediction` and `probability` of a file that flows/predict.py wrote. Raises InputError."""
    table = _read(path, ("path", "class", "probability")).rename_columns(["path", "prediction", "probability"])
    return _unique(table.set_column(1, "prediction", table["prediction"].cast(pa.string())))


def findings(path: Path) -> pa.Table:
    """`path` and `findings`, a sorted list of texts, of a file with a row for each finding. Raises InputError."""
    table = _read(path, ("path", "finding"))
    found: dict[str, set[str]] = {}
    for row in table.to_pylist():
        found.setdefault(row["path"], set()).add(row["finding"])
    lists = pa.array([sorted(names) for names in found.values()], pa.list_(pa.string()))
    return pa.table({"path": pa.array(list(found), pa.string()), "findings": lists})


def _read(path: Path, names: tuple[str, ...]) -> pa.Table:
    """Columns of a file, with `path` as it is shown."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} should end in .parquet, .csv or .jsonl")
    try:
        table = reader(path).select(list(names))
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be used; expected the columns {', '.join(names)} ({error})") from error
    if pa.types.is_binary(table["path"].type):
        return table.set_column(0, "path", pa.array([visible(name) for name in table["path"].to_pylist()], pa.string()))
    return table.set_column(0, "path", table["path"].cast(pa.string()))


def _unique(table: pa.Table) -> pa.Table:
    """The last row of each path."""
    last = pa.array(sorted({name: row for row, name in enumerate(table["path"].to_pylist())}.values()), pa.int64())
    return table.take(last)
