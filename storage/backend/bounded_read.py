"""Read files that may claim an impossible size."""

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path

from storage.backend.paths import Place, identity

# No image of as many pixels as are decoded is larger: 89 million of them take 716 MB at 16 bits a channel, uncompressed.
LARGEST_FILE = 2**30


# No record of ours is larger, and no segment: a version of 100 million images takes 64 MB.
LARGEST_RECORD = 2**28


def open_file(path: bytes) -> BufferedReader:
    """Open a regular file and nothing else: a pipe would wait for its writer, a device may do anything.

    Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "It is no regular file", os.fsdecode(path))
    return open(descriptor, "rb")


def read_file(root: Place, path: bytes) -> tuple[bytes, bytes]:
    """The bytes of a file below `root`, and the digest that those have, whoever writes meanwhile.

    The sha256, or an object's identity. Raises OSError, also for a path that leads out of the root, and for a file
    over LARGEST_FILE.
    """
    if path.startswith(b"/") or b".." in path.split(b"/"):
        raise OSError(errno.EINVAL, "It leads out of the image folder", os.fsdecode(path))
    if isinstance(root, Path):
        with open_file(os.path.join(os.fsencode(root), path)) as file:
            data = file.read(_checked_size(os.fstat(file.fileno()).st_size, path))
        return data, hashlib.sha256(data).digest()
    try:
        with root.fs.open(f"{root.path}/{os.fsdecode(path)}", "rb", cache_type="all") as file:
            return file.read(_checked_size(file.details["size"], path)), identity(file.details)
    except OSError:
        raise
    except Exception as error:  # the client's own, of which each library has others
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", os.fsdecode(path)) from error


def _checked_size(size_bytes: int, path: bytes) -> int:
    if size_bytes > LARGEST_FILE:
        raise OSError(errno.EFBIG, "It is larger than any image", os.fsdecode(path))
    return size_bytes


def read_whole(path: Place) -> bytes:
    """The bytes of a record or segment of the store. Raises OSError, ValueError for a file over LARGEST_RECORD."""
    with path.open("rb") as file:
        if not file.seekable():  # a pipe, which has no size
            return file.read()
        size_bytes = file.seek(0, os.SEEK_END)
        if size_bytes > LARGEST_RECORD:
            raise ValueError(f"it is larger than {LARGEST_RECORD} bytes")
        file.seek(0)
        return file.read(size_bytes)
