"""Scan images without labels: a folder of any depth, a prefix of an object store, one file, or a list of files."""

import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

import pyarrow as pa

from storage.backend.paths import Place
from storage.errors import InputError
from storage.source.folder_layout import CLASSES
from storage.source.labels import Label
from storage.source.scan import check_folder, walk_folder, warn_of
from storage.source.scan_table import Scan
from storage.source.walk import SCAN_SCHEMA, SUFFIXES, is_hidden, wrapped
from storage.text import count, visible

LIST_SUFFIX = ".txt"
UNLABELLED = Label("", None)


@dataclass(frozen=True)
class Inbox:
    """Images without labels.

    scan: their files. names: path in the scan → what a user knows the image as, where that differs. missing: lines of a list that
    name no file.
    """

    scan: Scan
    names: Mapping[bytes, bytes] = field(default_factory=dict)
    missing: tuple[bytes, ...] = ()


def scan_inbox(target: Place, outside_links: bool = False) -> Inbox:
    """Scan images without labels. Raises InputError if there is no such file or folder, or a list cannot be read.

    target: a folder or prefix, whose images are those with the suffix of one; an image; or a list of files, which ends in
    `.txt` and has one path per line, relative to the folder of the list. Files that are named need no suffix of an image.
    """
    if is_list(target):
        return _scan_list(target)
    if isinstance(target, Path) and target.is_file():
        return _scan_file(target)
    check_folder(target)
    scanned_ns = time.time_ns()
    walk = walk_folder(target, _any_image, CLASSES, outside_links)
    warn_of(target, walk)
    return Inbox(Scan(target, walk.rows.table(), walk.ignored.number, tuple(sorted(walk.unreadable)), scanned_ns))


def is_list(target: Place) -> TypeGuard[Path]:
    """Whether a target is a list of files."""
    return isinstance(target, Path) and target.suffix.lower() == LIST_SUFFIX and target.is_file()


def check_target(target: Place) -> None:
    """Raise InputError if there is no such folder or file."""
    if not (isinstance(target, Path) and target.is_file()):
        check_folder(target)


def _any_image(prefix: bytes, name: bytes) -> Label | None:
    return None if is_hidden(name) or not name.lower().endswith(SUFFIXES) else UNLABELLED


def _scan_file(path: Path) -> Inbox:
    inbox = _scan_names({os.fsencode(path): os.fsencode(path.name)})
    if not inbox.scan.files.num_rows:
        raise InputError(f"`images`: {path} is not a file")
    return inbox


def _scan_list(path: Path) -> Inbox:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"`images`: {path} cannot be read: {error.strerror}") from error
    if b"\0" in data:
        raise InputError(f"`images`: {path} is no list of paths in UTF-8; an image needs the suffix of one")
    lines = [line.strip() for line in data.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()]
    if not lines:
        raise InputError(f"`images`: {path} names no file; it should have one path per line")
    folder = os.fsencode(path.parent)
    names: dict[bytes, bytes] = {}
    for line in lines:
        names.setdefault(_joined(folder, line), line)
    inbox = _scan_names(names)
    if not inbox.scan.files.num_rows:
        raise InputError(
            f"`images`: none of the {count(len(names), 'path')} in {path} is a file, as {visible(lines[0])}; "
            f"a path is absolute or relative to {path.parent}"
        )
    return inbox


def _joined(folder: bytes, line: bytes) -> bytes:
    """The path of a line. Two spellings of a path are one image. `..` stays, because a link may come before it."""
    path = os.path.join(folder, line)
    return path if b".." in path.split(b"/") else os.path.normpath(path)


def _scan_names(names: Mapping[bytes, bytes]) -> Inbox:
    """Scan the files at absolute paths. names: path → what a user knows it as."""
    scanned_ns, rows, missing = time.time_ns(), [], []
    for path, name in names.items():
        try:
            status = os.stat(path)
            is_file = stat.S_ISREG(status.st_mode)
        except OSError:
            is_file = False
        if is_file:
            times = wrapped(status.st_mtime_ns), wrapped(status.st_ctime_ns)
            rows.append((path.lstrip(b"/"), status.st_size, *times, *UNLABELLED))
        else:
            missing.append(name)
    columns = zip(*rows, strict=True) if rows else [()] * len(SCAN_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCAN_SCHEMA, strict=True)]
    files = pa.Table.from_arrays(arrays, schema=SCAN_SCHEMA).sort_by("path").combine_chunks()
    shown = {path.lstrip(b"/"): name for path, name in names.items()}
    return Inbox(Scan(Path("/"), files, 0, (), scanned_ns), shown, tuple(missing))
