"""Read labels from a table: the class and optionally the split of each image."""

import logging
import os
from functools import lru_cache
from typing import NamedTuple

from storage.backend.paths import Place, is_local
from storage.errors import InputError
from storage.source.splits import PLAIN, as_read, splits_of
from storage.source.table_file import read_table
from storage.text import quoted, visible

logger = logging.getLogger(__name__)


class Label(NamedTuple):
    """The class of an image, and its split. None leaves the split to the hash of the image's bytes."""

    name: str
    split: str | None


def read_labels(file: Place, root: Place) -> dict[bytes, Label]:
    """Read labels from a CSV file with a header, or from a Parquet file. Returns path below `root` → label.

    Columns: `path` (relative to `root`, or absolute and below it), `class`, and optionally `split` (a name that
    splits_of knows, or empty). Skips other columns and empty rows. Raises InputError if the file cannot be read, has no
    rows, a row has no path or class or an unknown split, or a path has two labels.
    """
    table, shown = read_table(file), visible(str(file))
    splits = splits_of([value for value in table["split"].unique().to_pylist() if value])
    if read := {name: split for name, split in splits.items() if name not in PLAIN}:
        logger.info("`labels`: in the column split, %s", as_read(read))
    labels: dict[bytes, Label] = {}
    for number, (path, name, split) in enumerate(zip(*table.to_pydict().values(), strict=True), 1):
        if not path and not name and not split:
            continue  # a spreadsheet's empty row
        if not path or not name:
            raise InputError(f"`labels`: row {number} of {shown} has no {'class' if path else 'path'}")
        if split and split.strip() and split not in splits:
            raise InputError(
                f"`labels`: row {number} of {shown} has the split {quoted(split)}; expected {', '.join(PLAIN)}, or nothing"
            )
        place, label = below(path, root), Label(name, splits.get(split))
        if labels.setdefault(place, label) != label:
            raise two_labels(file, path, labels[place], label)
    if not labels:
        raise InputError(f"`labels`: {shown} has a header but no rows; expected one row per image")
    return labels


def two_labels(file: Place, path: bytes, one: Label, other: Label) -> InputError:
    """The error of a table that gives one file two labels."""
    shown = quoted(os.fsdecode(path))
    return InputError(f"`labels`: {visible(str(file))} has two labels for {shown}: {_shown(one)} and {_shown(other)}")


def _shown(label: Label) -> str:
    return quoted(label.name) + (f" in {label.split}" if label.split else "")


def below(path: bytes, root: Place) -> bytes:
    """Normalize a path as in a scan: relative to the root, without `.` and doubled slashes."""
    if not is_local(root):
        base, path = b"/-", path.removeprefix(os.fsencode(str(root)).rstrip(b"/") + b"/")
        return _inside(_normal(os.path.join(base, path)), base) or path
    base = os.fsencode(root)
    found = _inside(_normal(os.path.join(base, path)), base)
    if not found and path.startswith(b"/"):  # the table may reach the same folder through a link
        folder, name = os.path.split(path)
        found = _inside(os.path.join(_real(folder), name), _real(base))
    return found or path


def _normal(path: bytes) -> bytes:
    return b"/" + os.path.normpath(path).lstrip(b"/")  # normpath keeps two leading slashes


def _inside(path: bytes, folder: bytes) -> bytes:
    """A path relative to a folder; empty if the path is not below it."""
    above = folder.rstrip(b"/") + b"/"
    return path[len(above) :] if path.startswith(above) else b""


@lru_cache(maxsize=1024)
def _real(folder: bytes) -> bytes:
    return os.path.realpath(folder)
