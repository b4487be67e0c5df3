"""Write files that exist whole or not at all, also after a power cut.

Every write of the store goes through these few functions, on a disk or in an object store, which has the first
property by itself and needs no folders.
"""

import errno
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from storage.backend.paths import Place, Remote, is_local
from storage.errors import StorageError

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}", re.DOTALL)
OLD_SECONDS = 3600.0
# A file of this name in a store says that one process at a time writes it, so that a rename will do for a link.
SINGLE_WRITER = "single-writer"
CREATE_TRIES = 5


def sync_folder(folder: Place) -> None:
    """Make the names in a folder durable."""
    if not is_local(folder):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Place) -> None:
    """Create a folder and its missing parents, each durable in the one above it."""
    if not is_local(folder):
        return
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


def create(path: Place, data: bytes, aside: Place) -> bool:
    """Create `path` with `data`; False, with nothing changed, where it exists already.

    Written in the folder `aside` (same file system), synced, then linked to its name: a reader sees
    all of it or nothing, and of two writers exactly one gets True. In an object store it is one conditional
    request. Raises OSError (disk full, read-only) and StorageError where the file system has no hard links, and the
    store was not declared to have a single writer.
    """
    if not is_local(path):
        return _create_object(path, data)
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
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if not (aside.parent.parent / SINGLE_WRITER).exists():
            raise StorageError(
                f"{path.parent} lies on a file system without hard links, which the store needs to create a file "
                "exclusively; put --store on a local disk, or declare with --single-writer that no two runs use it at a time"
            ) from error
        if path.exists():
            return False
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def _create_object(path: Remote, data: bytes) -> bool:
    """Create an object if there is none; a store that is busy with the same name is asked again."""
    for attempt in range(CREATE_TRIES):
        try:
            path.fs.pipe_file(path.path, data, mode="create")
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno == errno.EINVAL:  # 412: the condition did not hold
                return False
            if error.errno != errno.EBUSY or attempt + 1 == CREATE_TRIES:  # 409: another request is creating it
                raise
            time.sleep(0.1 * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def put(path: Place, data: bytes, aside: Place) -> None:
    """Make sure that `path`, a name that stands for these bytes, has them; what is damaged is replaced."""
    if not path.exists() and create(path, data, aside):
        return
    if path.read_bytes() == data:
        sync_folder(path.parent)  # whoever gave the name may have died before it was durable
    else:
        replace(path, data, aside)


def replace(path: Place, data: bytes, aside: Place | None = None) -> None:
    """Put `data` at `path`, whatever was there: readers see the old bytes or the new.

    Written first in the folder `aside`, or beside `path`.
    """
    if not isinstance(path, Path):
        path.fs.pipe_file(path.path, data)
        return
    with writing(path, aside) as file:
        file.write(data)


def move(file: Path, path: Place) -> None:
    """Put a file at `path`, whatever was there, durably. A folder of `path` on a disk lies in the same file system."""
    if not isinstance(path, Path):
        path.fs.put_file(str(file), path.path)
        file.unlink()
        return
    make_folder(path.parent)
    with open(file, "rb") as written:
        os.fsync(written.fileno())
    os.replace(file, path)
    sync_folder(path.parent)


@contextmanager
def writing(path: Path, aside: Path | None = None) -> Iterator[BinaryIO]:
    """An open file that takes the place of `path`, which is on a disk, once the block has come to its end."""
    make_folder(path.parent)
    temporary = (aside or path.parent) / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sweep(folder: Place) -> None:
    """Remove what a `replace` beside its path left here when it died; what is young may be at work."""
    if not is_local(folder):
        return
    for path in folder.glob(".*"):
        if TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime > OLD_SECONDS:
            path.unlink(missing_ok=True)
