"""Write files atomically and durably: after a power cut, a file exists whole or not at all.

Every write of the store goes through these functions. An object store writes objects atomically by itself
and needs no folders.
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
# A file of this name declares that one process at a time writes the store. A rename can then replace a hard link.
SINGLE_WRITER = "single-writer"
CREATE_TRIES = 5


def sync_folder(folder: Place) -> None:
    """Make the folder's entries durable. Does nothing for an object store."""
    if not is_local(folder):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Place) -> None:
    """Create a folder and its missing parents, each durably. Does nothing for an object store."""
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
    """Create `path` with `data` exclusively. Returns False and changes nothing if `path` exists.

    Writes a temporary file in the folder `aside` (same file system), syncs it, and links it to its name.
    A reader sees the whole file or none, and exactly one of two writers gets True.
    An object store needs one conditional request instead.
    Raises OSError (disk full, read-only). Raises StorageError if the file system has no hard links and the store
    does not declare a single writer.
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
        sync_folder(path.parent)  # the process that linked the file may have died before the name was durable
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if not (aside.parent.parent / SINGLE_WRITER).exists():
            raise StorageError(
                f"{path.parent} is on a file system without hard links, which the store needs to create files exclusively; "
                "put `store` on a local disk, or pass `single_writer` if no two runs ever use it at the same time"
            ) from error
        if path.exists():
            return False
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def _create_object(path: Remote, data: bytes) -> bool:
    """Create an object if it does not exist. Retries while another request is creating the same object."""
    for attempt in range(CREATE_TRIES):
        try:
            path.fs.pipe_file(path.path, data, mode="create")
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno == errno.EINVAL:  # 412: the condition failed, so the object exists
                return False
            if error.errno != errno.EBUSY or attempt + 1 == CREATE_TRIES:  # 409: another request is creating it
                raise
            time.sleep(0.1 * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def put(path: Place, data: bytes, aside: Place) -> None:
    """Ensure that the content-addressed file `path` holds `data`. Replaces a damaged file."""
    if not path.exists() and create(path, data, aside):
        return
    if path.read_bytes() == data:
        sync_folder(path.parent)  # the process that linked the file may have died before the name was durable
    else:
        replace(path, data, aside)


def replace(path: Place, data: bytes, aside: Place | None = None) -> None:
    """Replace `path` with `data` atomically: a reader sees the old bytes or the new ones.

    The temporary file lies in the folder `aside`, by default in the folder of `path`.
    """
    if not isinstance(path, Path):
        path.fs.pipe_file(path.path, data)
        return
    with writing(path, aside) as file:
        file.write(data)


def move(file: Path, path: Place) -> None:
    """Move a file to `path` durably and replace any file there.

    If `path` is on a disk, both must be on the same file system.
    """
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
    """Open a temporary file that replaces `path`, a path on a disk, when the block ends without an error."""
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
    """Remove temporary files that a dead process left in a folder. Young ones stay: their writer may be alive."""
    if not is_local(folder):
        return
    for path in folder.glob(".*"):
        if TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime > OLD_SECONDS:
            path.unlink(missing_ok=True)
