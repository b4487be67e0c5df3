"""The result of one scan as a table."""

import hashlib
import os
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from storage.backend.paths import Place
from storage.source.folder_layout import CLASSES, FolderLayout

# Timestamps are coarse: 2 s on FAT, a few milliseconds on ext4 and xfs. A file that changed within this time of being
# seen may change again without new times.
RACY_NS = 2_000_000_000


@dataclass(frozen=True)
class Scan:
    """The result of one pass over the image folder.

    files: SCAN_SCHEMA, sorted by the bytes of the path relative to `root`; split is null if neither folders nor a
        table give one. For an object store it also has the column `digest`, derived from the object's metadata.
    ignored: the number of files that are not candidates (by suffix, or without a class).
    unreadable: folders that could not be listed; nothing below them counts as removed.
    scanned_ns: the time at which the scan started.
    layout: how the folders were interpreted, with remarks and doubt.
    """

    root: Place
    files: pa.Table
    ignored: int
    unreadable: tuple[bytes, ...]
    scanned_ns: int
    layout: FolderLayout = CLASSES

    @property
    def is_settled(self) -> bool:
        """Whether every file was old enough that any later change shows in its times."""
        return bool(is_sure(self.files, self.scanned_ns).all())

    @property
    def digest(self) -> str:
        """A hash, 32 hex digits, that changes whenever a name, size, time or label changes."""
        hasher = hashlib.sha256(os.fsencode(str(self.root)))
        hasher.update(b"\0".join(self.unreadable))
        for batch in self.files.combine_chunks().to_batches():
            hasher.update(batch.serialize())
        return hasher.hexdigest()[:32]


def is_sure(files: pa.Table, seen_ns: np.ndarray | int) -> np.ndarray:
    """(n,) bool: which files, read at `seen_ns`, cannot have changed since then without new times."""
    times = [files[name].to_numpy() for name in ("mtime_ns", "ctime_ns")]
    is_away = ((time < seen_ns - RACY_NS) | (time > seen_ns + RACY_NS) for time in times)  # a difference may overflow
    return np.logical_and(*is_away)
