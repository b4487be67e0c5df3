"""Which images lie in a folder: names, sizes and times, without opening a file."""

import errno
import hashlib
import logging
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from storage.errors import InputError
from storage.labels import Label, read_labels
from storage.matching import Rows
from storage.place import Place, Remote, identity, is_local
from storage.splits import PLAIN as SPLITS

logger = logging.getLogger(__name__)

Layout = Literal["auto", "classes", "splits"]
# From the folder's path and the file's name to a label; None for a file that is not wanted.
Labeller = Callable[[bytes, bytes], Label | None]

ROWS_A_TABLE = 50_000

SUFFIXES = (b".jpg", b".jpeg", b".jpe", b".jfif", b".png", b".gif", b".bmp", b".webp")

# A file changed within this time of being seen may change again with the same times: the granularity
# of FAT is 2 s, that of ext4 and xfs a few milliseconds.
RACY_NS = 2_000_000_000

SCAN_SCHEMA = pa.schema(
    [
        pa.field("path", pa.binary(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("ctime_ns", pa.int64(), nullable=False),
        pa.field("class", pa.string(), nullable=False),
        pa.field("split", pa.string()),
    ]
)


@dataclass(frozen=True)
class Scan:
    """What one pass over the image folder saw.

    files: SCAN_SCHEMA, sorted by the bytes of the path relative to `root`; split is null where neither
        folders nor a table say.
    ignored: files that are not candidates (by suffix, or without a class).
    unreadable: folders that could not be listed; nothing below them counts as removed.
    Of an object store `files` has the column `digest` too, made of what the store says of each object.
    """

    root: Place
    files: pa.Table
    ignored: int
    unreadable: tuple[bytes, ...]
    scanned_ns: int

    @property
    def is_settled(self) -> bool:
        """No file was so young that it may change again without its times moving on."""
        return bool(is_sure(self.files, self.scanned_ns).all())

    @property
    def digest(self) -> str:
        """Changes whenever a name, size, time or label does."""
        hasher = hashlib.sha256(os.fsencode(str(self.root)))
        hasher.update(b"\0".join(self.unreadable))
        for batch in self.files.combine_chunks().to_batches():
            hasher.update(batch.serialize())
        return hasher.hexdigest()[:32]


def scan_folder(root: Place, layout: Layout = "auto", labels: Path | None = None, outside_links: bool = False) -> Scan:
    """List the images below `root` by stat alone.

    `classes`: the first folder level is the class. `splits`: the first level is train, validation,
    val, valid or test, the second the class. `auto` takes `splits` only when every visible folder
    has such a name. Below the class, files lie at any depth. Where a table of `labels` is given, the
    images are the files that it names, whatever their folders and suffixes. Links are followed; such as lead out of
    `root` only with `outside_links`, else they are ignored and told of. Of an object store the listing tells
    all, page by page. Raises InputError where `root` is not a folder that can be listed, or the table cannot be used.
    """
    scanned_ns = time.time_ns()
    top = [text(name) for name in (_top_folders(root) if is_local(root) else _top_prefixes(root))]
    if labels is not None and layout != "auto":
        raise InputError(f"--layout {layout} takes the labels from folders, --labels from a table: give one of them")
    rows = Rows(read_labels(labels, root), labels, root) if labels is not None else None
    depth = 1 if labels is None and _layout_of(root, top, layout) == "splits" else 0
    label = rows.label if rows is not None else _by_folder(depth)
    walk: _Walk | _ObjectWalk = (
        _Walk(os.fsencode(root), depth, label, outside_links) if is_local(root) else _ObjectWalk(root, label)
    )
    walk.folders()
    if walk.outside:
        logger.warning(
            "%d links lead out of %s, as %s, and are not followed; --outside-links follows them",
            len(walk.outside),
            root,
            ascii(os.fsdecode(walk.outside[0])),
        )
    if walk.unreadable:
        logger.warning(
            "%d folders cannot be read, as %s: what the store knows of them stays as it was",
            len(walk.unreadable),
            os.path.join(str(root), os.fsdecode(walk.unreadable[0])),
        )
    files = walk.rows.table()
    if rows is not None:
        files, said = rows.matched(files, is_whole=not walk.unreadable)
        if said:
            logger.warning("%s", said)
    return Scan(root, files, walk.ignored, tuple(sorted(walk.unreadable)), scanned_ns)


def _layout_of(root: Path, top: list[str], layout: Layout) -> Layout:
    """What the first folder level means: as asked, or as its names say."""
    strangers = [name for name in top if name not in SPLITS]
    if layout == "splits" and strangers:
        raise InputError(
            f"--layout splits: {root} holds the folder {strangers[0]!r}, which is none of {', '.join(SPLITS)}"
        )
    if layout != "auto":
        return layout
    if strangers and "train" in top:
        logger.warning(
            "%s: train is taken for a class, as %s stands beside it; only split folders, or --layout, say otherwise",
            root,
            strangers[0],
        )
    return "classes" if strangers or not top else "splits"


def _by_folder(depth: int) -> Labeller:
    """Labels of images by the folders that they lie in, class `depth`; a file of no class folder has none."""

    def label(prefix: bytes, name: bytes) -> Label | None:
        folders = prefix.split(b"/")[:-1]
        if name.startswith(b".") or not name.lower().endswith(SUFFIXES) or len(folders) <= depth:
            return None
        return Label(text(folders[depth]), SPLITS[text(folders[0])] if depth else None)

    return label


def is_sure(files: pa.Table, seen_ns: np.ndarray | int) -> np.ndarray:
    """Which files, read at `seen_ns`, cannot have changed since without their times showing it."""
    ages = [np.abs(seen_ns - files[name].to_numpy()) for name in ("mtime_ns", "ctime_ns")]
    return np.minimum(*ages) > RACY_NS


def _top_folders(root: Path) -> list[bytes]:
    try:
        with os.scandir(os.fsencode(root)) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(b".") and _is_folder(entry))
    except FileNotFoundError:
        raise InputError(f"--images: there is no folder {root}") from None
    except NotADirectoryError:
        raise InputError(f"--images: {root} is a file; give the folder that holds the class folders") from None
    except OSError as error:
        raise InputError(f"--images: {root} cannot be listed: {error.strerror}") from error


# A link to itself or to nowhere: there is nothing behind it. Any other fault says nothing of what is there.
NOTHING_THERE = {errno.ELOOP, errno.ENOENT, errno.ENOTDIR}


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    """Whether an entry is, or leads to, a folder; one that we may not look at could be."""
    try:
        return entry.is_dir()
    except OSError as error:
        return error.errno not in NOTHING_THERE


def text(name: bytes) -> str:
    """A folder's name as text; bytes that are not UTF-8 become \\x.. escapes.

    So does the backslash of a name that looks like an escape: no two names have the same text.
    """
    return name.replace(rb"\x", rb"\x5cx").decode("utf-8", "backslashreplace")


class _Rows:
    """Rows that are gathered as Arrow tables, which take a third of the memory of as many tuples."""

    def __init__(self, schema: pa.Schema):
        self.schema = schema
        self._rows: list[tuple] = []
        self._tables: list[pa.Table] = []

    def append(self, row: tuple) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS_A_TABLE:
            self._pack()

    def _pack(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else [()] * len(self.schema)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
        self._tables.append(pa.Table.from_arrays(arrays, schema=self.schema))
        self._rows = []

    def table(self) -> pa.Table:
        """All rows, sorted by path."""
        self._pack()
        return pa.concat_tables(self._tables).sort_by("path").combine_chunks()


class _Walk:
    """The way through the folders, gathering rows in the order of SCAN_SCHEMA."""

    def __init__(self, root: bytes, depth_of_class: int, label: Labeller, outside_links: bool):
        self.root = root
        self.outside_links = outside_links
        self.outside: list[bytes] = []
        self._real_root = os.path.realpath(root)
        self.depth_of_class = depth_of_class
        self.label = label
        self.rows = _Rows(SCAN_SCHEMA)
        self.ignored = 0
        self.unreadable: list[bytes] = []

    def folders(self) -> None:
        """Walk every folder; not by recursion, since a path has room for 2,000 levels.

        A folder counts once in a class, however many ways links lead to it: of folders that link to each
        other there are more ways than can be walked. Real folders come before links, and links in the
        order of their names, so that a link to what the class has already changes nothing.
        """
        waiting = deque([(b"", set[tuple[int, int]]())])
        while waiting:
            prefix, seen = waiting.popleft()
            is_in_class = prefix.count(b"/") > self.depth_of_class
            for entry in self.folder(prefix, seen):
                below = prefix + entry.name + b"/", seen if is_in_class else seen.copy()
                if entry.is_symlink():
                    waiting.append(below)
                else:
                    waiting.appendleft(below)

    def folder(self, prefix: bytes, seen: set[tuple[int, int]]) -> list[os.DirEntry[bytes]]:
        """Take in the files of one folder and return the folders in it; nothing where its identity was `seen`."""
        path = os.path.join(self.root, prefix)
        try:
            status = os.stat(path)
            with os.scandir(path) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
        except OSError:
            self.unreadable.append(prefix)
            return []
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            return []
        seen.add(identity)
        folders = []
        for entry in found:
            if not _is_folder(entry):
                self.file(prefix, entry)
            elif not entry.name.startswith(b".") and not self.is_refused(prefix, entry):
                folders.append(entry)
        return folders

    def is_refused(self, prefix: bytes, entry: os.DirEntry[bytes]) -> bool:
        """Whether an entry that is wanted is a link that leads out of the root, and may not; it is kept in mind."""
        if self.outside_links or not entry.is_symlink():
            return False
        end = os.path.realpath(entry.path)
        if end == self._real_root or end.startswith(self._real_root.rstrip(b"/") + b"/"):
            return False
        self.outside.append(prefix + entry.name)
        self.ignored += 1
        return True

    def file(self, prefix: bytes, entry: os.DirEntry[bytes]) -> None:
        label = self.label(prefix, entry.name)
        if label is None:
            self.ignored += 1
            return
        try:
            status = entry.stat()
        except OSError as error:
            if error.errno in NOTHING_THERE:
                self.ignored += 1
            elif prefix not in self.unreadable:
                self.unreadable.append(prefix)
            return
        if not stat.S_ISREG(status.st_mode):
            self.ignored += 1
            return
        if self.is_refused(prefix, entry):
            return
        self.rows.append((prefix + entry.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, *label))


def _top_prefixes(root: Remote) -> list[bytes]:
    try:
        found = root.fs.ls(root.path, detail=True)
    except FileNotFoundError:
        raise InputError(f"--images: there is nothing below {root}") from None
    except OSError as error:
        raise InputError(f"--images: {root} cannot be listed: {error}") from error
    names = [os.fsencode(info["name"].rpartition("/")[2]) for info in found if info["type"] == "directory"]
    return sorted(name for name in names if not name.startswith(b"."))


class _ObjectWalk:
    """The way through the prefixes of an object store, gathering rows as `_Walk` does, with a digest at the end."""

    def __init__(self, root: Remote, label: Labeller):
        self.root = root
        self.label = label
        self.rows = _Rows(SCAN_SCHEMA.append(pa.field("digest", pa.binary(32))))
        self.ignored = 0
        self.unreadable: list[bytes] = []
        self.outside: list[bytes] = []  # there are no links

    def folders(self) -> None:
        waiting = [b""]
        while waiting:
            waiting += self.folder(waiting.pop())

    def folder(self, prefix: bytes) -> list[bytes]:
        """Take in the objects of one prefix and return the prefixes in it."""
        folders = []
        try:
            found = self.root.fs.ls(f"{self.root.path}/{os.fsdecode(prefix)}".rstrip("/"), detail=True)
        except FileNotFoundError:
            return []
        except OSError:
            self.unreadable.append(prefix)
            return []
        for info in found:
            name = os.fsencode(info["name"].rstrip("/").rpartition("/")[2])
            if info["type"] == "directory":
                folders += [] if name.startswith(b".") else [prefix + name + b"/"]
            elif not info["name"].endswith("/"):  # the mark of an empty folder
                self.file(prefix, name, info)
        return folders

    def file(self, prefix: bytes, name: bytes, info: Mapping) -> None:
        label = self.label(prefix, name)
        if label is None:
            self.ignored += 1
            return
        moment = info.get("LastModified") or info.get("mtime")
        written_ns = int(moment.timestamp() * 1e9) if moment else 0
        self.rows.append((prefix + name, info["size"], written_ns, written_ns, *label, identity(info)))
