"""Read the columns of a table of labels from CSV, in several variants, or from Parquet."""

import csv as header_csv
import io
import logging
import re
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from storage.backend.paths import Place
from storage.errors import InputError
from storage.source.table_columns import COLUMNS, with_our_names
from storage.text import visible

logger = logging.getLogger(__name__)

SEPARATORS = {b"\t": "tab-separated", b";": "semicolon-separated"}
UTF16 = (b"\xff\xfe", b"\xfe\xff")
HEAD_BYTES = 65_536  # the header line is expected within these


def read_table(file: Place) -> pa.Table:
    """Read the columns of COLUMNS from a .csv or .parquet file. `split` is null if the file has no such column.

    A CSV header with tabs or semicolons instead of commas sets the separator, with a warning.
    Raises InputError if the file cannot be read as such a table.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if file.suffix.lower() not in readers:
        raise InputError(f"`labels`: {visible(str(file))} has an unknown suffix; expected .csv or .parquet")
    try:
        table = with_our_names(readers[file.suffix.lower()](file), file)
        if "split" not in table.column_names:
            table = table.append_column("split", pa.nulls(table.num_rows, pa.string()))
        table = pa.table({name: _cast(table[name], kind, name, file) for name, kind in COLUMNS.items()})
        table.validate(full=True)  # the Parquet reader does not check that text is UTF-8
        return table
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        # Arrow counts the columns of a CSV file from 0.
        fault = re.sub(r"column #(\d+)", lambda found: f"column {int(found[1]) + 1}", str(error))
        raise InputError(
            f"`labels`: {visible(str(file))} cannot be read: {visible(' '.join(fault.split()))}"
        ) from error


def _opened(file: Place) -> BinaryIO:
    """Open a file: from disk, or from an object store as a whole in memory."""
    return open(file, "rb") if isinstance(file, Path) else io.BytesIO(file.fs.cat_file(file.path))


def _read_parquet(file: Place) -> pa.Table:
    return pq.ParquetFile(
        file if isinstance(file, Path) else _opened(file)
    ).read()  # pq.read_table would take folders named a=b for columns


def _read_csv(file: Place) -> pa.Table:
    with _opened(file) as source:
        head = source.read(HEAD_BYTES)
    if head.startswith(UTF16) or b"\0" in head:
        kind = "is UTF-16" if head.startswith(UTF16) else "contains NUL bytes, like UTF-16 and binary files"
        raise InputError(f"`labels`: {visible(str(file))} {kind}; save it as CSV in UTF-8")
    line = re.split(rb"[\r\n]", head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n"), maxsplit=1)[0]
    separator, names = _separated(line)
    if separator in SEPARATORS:
        logger.warning("reading %s as %s", visible(str(file)), SEPARATORS[separator])
    return csv.read_csv(
        file if isinstance(file, Path) else _opened(file),
        parse_options=csv.ParseOptions(newlines_in_values=True, delimiter=separator.decode()),
        convert_options=csv.ConvertOptions(
            column_types={name: COLUMNS[ours] for name in names if (ours := name.strip().casefold()) in COLUMNS}
        ),
    )


def _separated(line: bytes) -> tuple[bytes, list[str]]:
    """The separator of a header line, and the header's names.

    Chooses the separator that yields most names of COLUMNS; commas come first in a tie.
    """
    separators = [found for found in (b",", *SEPARATORS) if found in line] or [b","]
    text = line.decode("utf-8", "replace")
    names = {each: next(header_csv.reader(io.StringIO(text), delimiter=each.decode()), []) for each in separators}
    best = max(separators, key=lambda each: len(COLUMNS.keys() & {name.strip().casefold() for name in names[each]}))
    return best, names[best]


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str, file: Place) -> pa.ChunkedArray:
    """Cast a column to text, or a path to bytes. Decodes dictionaries. Raises InputError for any other type."""
    try:
        values = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        is_number = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
        return pc.cast(pc.cast(values, pa.string()) if is_number else values, kind)
    except pa.ArrowNotImplementedError:
        raise InputError(
            f"`labels`: the column {name!r} of {visible(str(file))} has the type {column.type}; expected text"
        ) from None
