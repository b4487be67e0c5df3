"""The result of one scan as a table."""

import hashlib
import os
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from storage.backend.paths import Place
from storage.source.folder_layout import CLASSES, FolderLayout

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
    layout: what the folders were taken for, with what there is to say of it.
    Of an object store `files` has the column `digest` too, made of what the store says of each object.
    """

    root: Place
    files: pa.Table
    ignored: int
    unreadable: tuple[bytes, ...]
    scanned_ns: int
    layout: FolderLayout = CLASSES

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


def is_sure(files: pa.Table, seen_ns: np.ndarray | int) -> np.ndarray:
    """Which files, read at `seen_ns`, cannot have changed since without their times showing it."""
    times = [files[name].to_numpy() for name in ("mtime_ns", "ctime_ns")]
    is_away = ((time < seen_ns - RACY_NS) | (time > seen_ns + RACY_NS) for time in times)  # a difference may overflow
    return np.logical_and(*is_away)
