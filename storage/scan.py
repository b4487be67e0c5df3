"""Which images lie in a folder: names, sizes and times, without opening a file."""

import hashlib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from storage.errors import InputError
from storage.labels import Label, read_labels
from storage.matching import Rows
from storage.place import Place, Remote, is_local
from storage.splits import PLAIN as SPLITS
from storage.walk import SUFFIXES, Labeller, ObjectWalk, Walk, is_folder

logger = logging.getLogger(__name__)

Layout = Literal["auto", "classes", "splits"]

# A file changed within this time of being seen may change again with the same times: the granularity
# of FAT is 2 s, that of ext4 and xfs a few milliseconds.
RACY_NS = 2_000_000_000


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
    walk: Walk | ObjectWalk = (
        Walk(os.fsencode(root), depth, label, outside_links) if is_local(root) else ObjectWalk(root, label)
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
    times = [files[name].to_numpy() for name in ("mtime_ns", "ctime_ns")]
    is_away = ((time < seen_ns - RACY_NS) | (time > seen_ns + RACY_NS) for time in times)  # a difference may overflow
    return np.logical_and(*is_away)


def _top_folders(root: Path) -> list[bytes]:
    try:
        with os.scandir(os.fsencode(root)) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(b".") and is_folder(entry))
    except FileNotFoundError:
        raise InputError(f"--images: there is no folder {root}") from None
    except NotADirectoryError:
        raise InputError(f"--images: {root} is a file; give the folder that holds the class folders") from None
    except OSError as error:
        raise InputError(f"--images: {root} cannot be listed: {error.strerror}") from error


def _top_prefixes(root: Remote) -> list[bytes]:
    try:
        found = root.fs.ls(root.path, detail=True)
    except FileNotFoundError:
        raise InputError(f"--images: there is nothing below {root}") from None
    except OSError as error:
        raise InputError(f"--images: {root} cannot be listed: {error}") from error
    names = [os.fsencode(info["name"].rpartition("/")[2]) for info in found if info["type"] == "directory"]
    return sorted(name for name in names if not name.startswith(b"."))


def text(name: bytes) -> str:
    """A folder's name as text; bytes that are not UTF-8 become \\x.. escapes.

    So does the backslash of a name that looks like an escape: no two names have the same text.
    """
    return name.replace(rb"\x", rb"\x5cx").decode("utf-8", "backslashreplace")
