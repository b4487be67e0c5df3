"""Read the files of `exclude` and `relabel`: what a person decided about single images after an inspection."""

import csv
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from storage.backend.paths import Place, place
from storage.errors import InputError
from storage.source.labels import below
from storage.text import first_few, visible

COLUMNS = ("path", "digest", "class", "action")
ACTIONS = ("exclude", "relabel", "keep", "")
DIGEST = re.compile(r"[0-9a-fA-F]{64}")


class Correction(NamedTuple):
    """A row. path: relative to the image folder; empty: every file with these bytes. digest: of the bytes that were judged, if
    the row has one. name: the class; None excludes the image. option: the parameter whose file has the row.
    """

    path: bytes
    digest: bytes | None
    name: str | None
    option: str


def read_corrections(exclude: str, relabel: str, root: Place) -> list[Correction]:
    """Read both files; an empty name has no rows.

    A .csv (UTF-8, with a header) or .parquet file. Columns: `path`, relative to `root` or absolute, or `digest` (64 hex digits), or
    both; `class` in the file of `relabel`; other columns are ignored. If there is a column `action`, only the rows with
    `exclude` or `relabel` count for the parameter of that name, so one reviewed file serves both. Raises InputError.
    """
    return [
        *(Correction(path, digest, None, "exclude") for path, digest, _ in _decided("exclude", exclude, root)),
        *(Correction(path, digest, name, "relabel") for path, digest, name in _decided("relabel", relabel, root)),
    ]


def _decided(option: str, name: str, root: Place) -> Iterator[tuple[bytes, bytes | None, str]]:
    """(path, digest, class) of the rows that are for this parameter."""
    if not name:
        return
    shown = f"`{option}`: {visible(name)}"
    columns, rows = _rows(option, place(name))
    wanted = [["path", "digest"], ["class"]] if option == "relabel" else [["path", "digest"]]
    for either in wanted:
        if not set(either) & set(columns):
            raise InputError(
                f"{shown} has no column {' or '.join(either)}; it has {first_few(columns) or 'no columns'}"
            )
    for number, row in enumerate(rows, 1):
        action = row.get("action", option).strip().lower()
        if action not in ACTIONS:
            raise InputError(
                f"{shown} has the action {action!a} in row {number}; expected exclude, relabel, keep or nothing"
            )
        if action != option or not (row.get("path") or row.get("digest")):
            continue
        digest = row.get("digest", "").strip()
        if digest and not DIGEST.fullmatch(digest):
            raise InputError(f"{shown} has the digest {digest!a} in row {number}; expected 64 hex digits")
        if option == "relabel" and not row.get("class"):
            raise InputError(f"{shown} has no class in row {number}")
        path = os.fsencode(row.get("path", ""))
        yield below(path, root) if path else b"", bytes.fromhex(digest) or None, row.get("class", "")


def _rows(option: str, file: Place) -> tuple[list[str], list[dict[str, str]]]:
    """The names of the columns in lower case, and the rows with the values of COLUMNS as text."""
    suffix = file.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise InputError(f"`{option}`: {visible(str(file))} has an unknown suffix; expected .csv or .parquet")
    try:
        data = file.read_bytes() if isinstance(file, Path) else file.fs.cat_file(file.path)
        names, rows = _csv(data) if suffix == ".csv" else _parquet(data)
    except (OSError, ValueError, pa.ArrowException, csv.Error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"`{option}`: {visible(str(file))} cannot be read: {visible(reason)}") from error
    names = [name.strip().lower() for name in names]
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise InputError(f"`{option}`: {visible(str(file))} has the column {twice[0]} more than once")
    places = {name: names.index(name) for name in COLUMNS if name in names}
    return names, [{name: row[at] for name, at in places.items() if at < len(row)} for row in rows]


def _csv(data: bytes) -> tuple[list[str], list[list[str]]]:
    text = data.decode("utf-8-sig", "surrogateescape")
    first = text.lstrip("\r\n").partition("\n")[0]
    separator = max(",;\t", key=first.count)
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row]
    return (rows[0], rows[1:]) if rows else ([], [])


def _parquet(data: bytes) -> tuple[list[str], list[list[str]]]:
    table = pq.ParquetFile(pa.BufferReader(data)).read()
    columns = [[_text(value) for value in column.to_pylist()] for column in table.columns]
    return table.column_names, [list(row) for row in zip(*columns, strict=True)]


def _text(value: object) -> str:
    return "" if value is None else os.fsdecode(value) if isinstance(value, bytes) else str(value)
