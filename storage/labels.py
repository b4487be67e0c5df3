"""Labels from a table: the class, and maybe the split, of each image, where the folders do not say."""

import logging
import os
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from storage.errors import InputError
from storage.place import Place, is_local
from storage.splits import PLAIN, as_read, splits_of

logger = logging.getLogger(__name__)


# Paths are bytes: a file's name need not be text. A class may look like a number and stays as written.
COLUMNS = {"path": pa.binary(), "class": pa.string(), "split": pa.string()}


class Label(NamedTuple):
    """What an image shows, and its split; None leaves the split to the hash of its bytes."""

    name: str
    split: str | None


def read_labels(file: Path, root: Place) -> dict[bytes, Label]:
    """Path below `root` → label, from a CSV with a header or a Parquet file.

    Columns: `path` (relative to `root`, or absolute below it), `class`, and where there is one `split` (a name that
    splits_of knows, or nothing); others are passed over. Raises InputError where
    the file cannot be read as such, a row has no path or class, or a path has two labels.
    """
    table = _read(file)
    splits = splits_of(_values(table["split"]))
    if read := {name: split for name, split in splits.items() if name not in PLAIN}:
        logger.info("--labels: in the column split %s", as_read(read))
    labels: dict[bytes, Label] = {}
    for number, (path, name, split) in enumerate(zip(*table.to_pydict().values(), strict=True), 1):
        if not path or not name:
            raise InputError(f"--labels: row {number} of {file} has no {'class' if path else 'path'}")
        if split and split.strip() and split not in splits:
            raise InputError(
                f"--labels: row {number} of {file} has the split {split!r}; expected {', '.join(PLAIN)}, or nothing"
            )
        place, label = _below(path, root), Label(name, splits.get(split))
        if labels.setdefault(place, label) != label:
            raise InputError(f"--labels: {file} has two labels for {os.fsdecode(path)!r}: {labels[place]} and {label}")
    return labels


def _values(column: pa.ChunkedArray) -> list[str]:
    return [value for value in pc.unique(column).to_pylist() if value]


def _read(file: Path) -> pa.Table:
    """The columns of COLUMNS, `split` null where the file has none."""
    readers = {".csv": _read_csv, ".parquet": pq.read_table}
    if file.suffix.lower() not in readers:
        raise InputError(f"--labels: {file} should be a .csv or a .parquet file")
    try:
        table = readers[file.suffix.lower()](file)
        missing = [name for name in ("path", "class") if name not in table.column_names]
        if missing:
            raise InputError(
                f"--labels: {file} has no column {missing[0]!r}; expected path, class and maybe split, "
                f"found {', '.join(table.column_names) or 'none'}"
            )
        twice = [name for name in COLUMNS if table.column_names.count(name) > 1]
        if twice:
            raise InputError(f"--labels: {file} has the column {twice[0]!r} more than once")
        if "split" not in table.column_names:
            table = table.append_column("split", pa.nulls(table.num_rows, pa.string()))
        table = pa.table({name: pc.cast(table[name], kind) for name, kind in COLUMNS.items()})
        table.validate(full=True)  # the reader of Parquet does not look whether text is UTF-8
        return table
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"--labels: {file} cannot be read: {' '.join(str(error).split())}") from error


def _read_csv(file: Path) -> pa.Table:
    return csv.read_csv(
        file,
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(column_types=COLUMNS),
    )


def _below(path: bytes, root: Place) -> bytes:
    """A path as the scan spells it: relative to the root, without `.` and doubled slashes."""
    if is_local(root):
        base = os.fsencode(root)
    else:
        base, path = b"/-", path.removeprefix(os.fsencode(str(root)).rstrip(b"/") + b"/")
    whole = os.path.normpath(os.path.join(base, path))
    return whole[len(base) + 1 :] if whole.startswith(base.rstrip(b"/") + b"/") else path
