"""Read files with an upper bound on their size, because a damaged file may claim any size."""

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path

from storage.backend.paths import Place, identity

# Bytes. No image within the decoder's pixel limit is larger: 89 million pixels take 716 MB uncompressed at 16 bits
# a channel.
LARGEST_FILE = 2**30


# Bytes. No record or segment of the store is larger: a version of 100 million images takes 64 MB.
LARGEST_RECORD = 2**28


def open_file(path: bytes) -> BufferedReader:
    """Open a regular file. Refuses pipes, which would block until a writer comes, and devices, which may do anything.

    Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file", os.fsdecode(path))
    return open(descriptor, "rb")


def read_file(root: Place, path: bytes) -> tuple[bytes, bytes]:
    """Read a file below `root` and return its bytes and their digest.

    The digest is the sha256 of the bytes returned, even if another process writes the file meanwhile. For an object
    it is the object's identity. Raises OSError, also if the path leads out of the root or the file is larger than
    LARGEST_FILE.
    """
    if path.startswith(b"/") or b".." in path.split(b"/"):
        raise OSError(errno.EINVAL, "Path leads out of the image folder", os.fsdecode(path))
    if isinstance(root, Path):
        with open_file(os.path.join(os.fsencode(root), path)) as file:
            data = file.read(_checked_size(os.fstat(file.fileno()).st_size, path))
        return data, hashlib.sha256(data).digest()
    try:
        with root.fs.open(f"{root.path}/{os.fsdecode(path)}", "rb", cache_type="all") as file:
            return file.read(_checked_size(file.details["size"], path)), identity(file.details)
    except OSError:
        raise
    except Exception as error:  # each client library raises its own exceptions
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", os.fsdecode(path)) from error


def _checked_size(size_bytes: int, path: bytes) -> int:
    if size_bytes > LARGEST_FILE:
        raise OSError(errno.EFBIG, "File too large for an image", os.fsdecode(path))
    return size_bytes


def read_whole(path: Place) -> bytes:
    """Read a record or segment of the store. Raises OSError, and ValueError if the file exceeds LARGEST_RECORD."""
    with path.open("rb") as file:
        if not file.seekable():  # a pipe has no size
            return file.read()
        size_bytes = file.seek(0, os.SEEK_END)
        if size_bytes > LARGEST_RECORD:
            raise ValueError(f"it is larger than {LARGEST_RECORD} bytes")
        file.seek(0)
        return file.read(size_bytes)
