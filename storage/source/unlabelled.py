"""Scan images without labels: a folder of any depth, a prefix of an object store, one file, or a list of files."""

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from storage.backend.paths import Place
from storage.errors import InputError
from storage.source.folder_layout import CLASSES
from storage.source.labels import Label
from storage.source.scan import check_folder, walk_folder, warn_of
from storage.source.scan_table import Scan
from storage.source.walk import SCAN_SCHEMA, SUFFIXES, is_hidden, wrapped
from storage.text import count

LIST_SUFFIX = ".txt"
UNLABELLED = Label("", None)


@dataclass(frozen=True)
class Inbox:
    """Images without labels.

    scan: their files. missing: paths of a list that name no file. prefix: of the paths in the scan, to be left out of what a user sees.
    """

    scan: Scan
    missing: tuple[bytes, ...] = ()
    prefix: bytes = b""


def scan_inbox(target: Place, outside_links: bool = False) -> Inbox:
    """Scan images without labels. Raises InputError if there is no such file or folder, or a list cannot be read.

    target: a folder or prefix, whose images are those with the suffix of one; an image; or a list of files, which ends in
    `.txt` and has one path per line, relative to the folder of the list. Files that are named need no suffix of an image.
    """
    if isinstance(target, Path) and target.is_file():
        return _scan_list(target) if target.suffix.lower() == LIST_SUFFIX else _scan_file(target)
    check_folder(target)
    scanned_ns = time.time_ns()
    walk = walk_folder(target, _any_image, CLASSES, outside_links)
    warn_of(target, walk)
    return Inbox(Scan(target, walk.rows.table(), walk.ignored.number, tuple(sorted(walk.unreadable)), scanned_ns))


def check_target(target: Place) -> None:
    """Raise InputError if there is no such folder or file."""
    if not (isinstance(target, Path) and target.is_file()):
        check_folder(target)


def _any_image(prefix: bytes, name: bytes) -> Label | None:
    return None if is_hidden(name) or not name.lower().endswith(SUFFIXES) else UNLABELLED


def _scan_file(path: Path) -> Inbox:
    return _scan_paths(path.parent, [os.fsencode(path.name)])


def _scan_list(path: Path) -> Inbox:
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise InputError(f"`images`: {path} cannot be read: {error.strerror}") from error
    folder = os.fsencode(path.parent)
    named = [os.path.normpath(os.path.join(folder, line.strip())) for line in lines if line.strip()]
    if not named:
        raise InputError(f"`images`: {path} names no file; it should have one path per line")
    return _scan_paths(Path("/"), [name.lstrip(b"/") for name in dict.fromkeys(named)], folder.lstrip(b"/") + b"/")


def _scan_paths(root: Path, paths: list[bytes], prefix: bytes = b"") -> Inbox:
    scanned_ns, rows, missing = time.time_ns(), [], []
    for path in paths:
        try:
            status = os.stat(os.path.join(os.fsencode(root), path))
        except OSError:
            missing.append(path)
            continue
        if not stat.S_ISREG(status.st_mode):
            missing.append(path)
            continue
        times = wrapped(status.st_mtime_ns), wrapped(status.st_ctime_ns)
        rows.append((path, status.st_size, *times, *UNLABELLED))
    if not rows:
        raise InputError(f"`images`: none of {count(len(paths), 'path')} is a file")
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCAN_SCHEMA, strict=True)]
    files = pa.Table.from_arrays(columns, schema=SCAN_SCHEMA).sort_by("path").combine_chunks()
    return Inbox(Scan(root, files, 0, (), scanned_ns), tuple(missing), prefix)
