"""Files that are there whole or not at all, also after a power cut.

Every write of the store goes through these few functions.
"""

import errno
import os
import re
import time
import uuid
from pathlib import Path

from storage.errors import StorageError

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}", re.DOTALL)
OLD_SECONDS = 3600.0


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, each durable in the one above it."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def create(path: Path, data: bytes, aside: Path) -> bool:
    """Create `path` with `data`; False, with nothing changed, where it exists already.

    Written in the folder `aside` (same file system), synced, then linked to its name: a reader sees
    all of it or nothing, and of two writers exactly one gets True. Raises OSError (disk full,
    read-only) and StorageError where the file system has no hard links.
    """
    make_folder(path.parent)
    make_folder(aside)
    temporary = aside / uuid.uuid4().hex
    try:
        _write_synced(temporary, data)
        os.link(temporary, path)
    except FileExistsError:
        sync_folder(path.parent)  # whoever gave the name may have died before it was durable
        return False
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP):
            raise StorageError(
                f"{path.parent} lies on a file system without hard links, which the store needs to "
                "create a file exclusively; put --store on a local disk"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def put(path: Path, data: bytes, aside: Path) -> None:
    """Make sure that `path`, a name that stands for these bytes, has them; what is damaged is replaced."""
    if not path.exists() and create(path, data, aside):
        return
    if path.read_bytes() == data:
        sync_folder(path.parent)  # whoever gave the name may have died before it was durable
    else:
        replace(path, data, aside)


def replace(path: Path, data: bytes, aside: Path | None = None) -> None:
    """Put `data` at `path`, whatever was there: readers see the old bytes or the new.

    Written first in the folder `aside`, or beside `path`.
    """
    make_folder(path.parent)
    temporary = (aside or path.parent) / f".{path.name}.{uuid.uuid4().hex}"
    try:
        _write_synced(temporary, data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Remove what a `replace` beside its path left here when it died; what is young may be at work."""
    for path in folder.glob(".*"):
        if TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime > OLD_SECONDS:
            path.unlink(missing_ok=True)
