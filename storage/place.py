"""Where a store or a folder of images lies: on a disk of this machine, or below a prefix of an object store."""

import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeAlias

from storage.errors import InputError

# A upath.UPath: it has the methods of a Path. It is imported where it is needed alone, and so is not named here.
Remote: TypeAlias = Any
Place: TypeAlias = Path | Remote

# No image of as many pixels as are decoded is larger: 89 million of them take 716 MB at 16 bits a channel, uncompressed.
LARGEST_FILE = 2**30

# No record of ours is larger, and no segment: a version of 100 million images takes 64 MB.
LARGEST_RECORD = 2**28

EXTRAS = {"s3": "s3", "gs": "gs"}
# Throttled requests are tried again, each after twice the time of the one before; what another run wrote a moment
# ago has to be seen.
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"use_listings_cache": False, "config_kwargs": {"retries": {"mode": "standard", "max_attempts": 8}}},
    "gs": {"use_listings_cache": False},
}


def place(address: str | Path) -> Place:
    """The place of an address: `s3://bucket/prefix`, `gs://bucket/prefix`, or a local path, made absolute.

    Raises InputError for another scheme, and where the library for this one is not installed.
    """
    scheme, mark, rest = str(address).partition("://")
    if not mark:
        return Path(os.path.abspath(at_home(str(address))))
    if scheme not in EXTRAS or not rest.strip("/"):
        raise InputError(
            f"{address} is no place that can be read: expected a path, s3://bucket/prefix or gs://bucket/prefix"
        )
    try:
        from upath import UPath

        found = UPath(str(address).rstrip("/"), **OPTIONS[scheme])
        _ = found.fs
    except ImportError as error:
        raise InputError(
            f"{address} needs the extra {EXTRAS[scheme]} ({error.name or error} is not installed): "
            f"pip install -c constraints.txt -e '.[{EXTRAS[scheme]}]'"
        ) from error
    return found


def at_home(path: str) -> str:
    """A path with the home folder for its `~`, which no shell has read in a file or behind `=`; unless it is there so."""
    if not path.startswith("~") or os.path.lexists(path.partition("/")[0]):
        return path
    return os.path.expanduser(path)


def is_local(where: Place) -> bool:
    return isinstance(where, Path)


def identity(info: Mapping[str, Any]) -> bytes:
    """What stands for the bytes of an object: 32 bytes made of the store's own content hash and the size.

    info: as fsspec gives it. Equal bytes that were uploaded in parts of other sizes may have another.
    """
    etag = str(info.get("ETag") or info.get("etag") or info.get("md5Hash") or "").strip('"')
    return hashlib.sha256(f"etag {etag} {info['size']}".encode()).digest()


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


def sizes(folder: Place) -> dict[str, int]:
    """Names and sizes of the files two levels below a folder: one listing instead of a question for each."""
    if not isinstance(folder, Path):
        try:
            found = folder.fs.find(folder.path, detail=True)
        except FileNotFoundError:
            return {}
        return {name.rpartition("/")[2]: info["size"] for name, info in found.items()}
    result: dict[str, int] = {}
    for below in folder.iterdir() if folder.is_dir() else ():
        if below.is_dir():
            with os.scandir(below) as entries:
                for entry in entries:
                    with suppress(OSError):  # gone meanwhile, or a link to nowhere
                        result[entry.name] = entry.stat().st_size
    return result
