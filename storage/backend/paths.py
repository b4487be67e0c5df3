"""Paths of stores and image folders: on a local disk, or below a prefix of an object store."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from storage.errors import InputError

# A upath.UPath, which has the methods of a Path. Only `place` imports the library, so the type is Any here.
Remote: TypeAlias = Any
Place: TypeAlias = Path | Remote


EXTRAS = {"s3": "s3", "gs": "gs"}
# Throttled requests are retried with exponential backoff. The listings cache is off, so that a run sees what
# another run has just written.
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"use_listings_cache": False, "config_kwargs": {"retries": {"mode": "standard", "max_attempts": 8}}},
    "gs": {"use_listings_cache": False},
}


def place(address: str | Path) -> Place:
    """Parse an address: `s3://bucket/prefix`, `gs://bucket/prefix`, or a local path, which becomes absolute.

    Raises InputError for another scheme, or if the library for the scheme is not installed.
    """
    scheme, mark, rest = str(address).partition("://")
    if not mark:
        return Path(os.path.abspath(at_home(str(address))))
    if scheme not in EXTRAS or not rest.strip("/"):
        raise InputError(f"{address}: unsupported address; expected a path, s3://bucket/prefix or gs://bucket/prefix")
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
    """Expand a leading `~` or `~user`, because the shell does not expand it behind `=` or in files.

    The path stays as it is if a file of that very name exists.
    """
    if not path.startswith("~") or os.path.lexists(path.partition("/")[0]):
        return path
    return os.path.expanduser(path)


def is_local(where: Place) -> bool:
    """Whether a place is on a file system, not in an object store."""
    return isinstance(where, Path)


def identity(info: Mapping[str, Any]) -> bytes:
    """The digest of an object: 32 bytes, a hash of the object store's own content hash and the size.

    info: the object's fsspec info. Equal bytes that were uploaded in parts of different sizes may have different
    identities.
    """
    etag = str(info.get("ETag") or info.get("etag") or info.get("md5Hash") or "").strip('"')
    return hashlib.sha256(f"etag {etag} {info['size']}".encode()).digest()


def sizes(folder: Place) -> dict[str, int]:
    """Map the names of the files two levels below a folder to their sizes in bytes.

    Lists the folder instead of asking for each file.
    """
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
                    with suppress(OSError):  # deleted meanwhile, or a dangling link
                        result[entry.name] = entry.stat().st_size
    return result
