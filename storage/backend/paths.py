"""Paths of stores and image folders: on a local disk, or below a prefix of an object store."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from storage.errors import InputError

# A upath.UPath: it has the methods of a Path. It is imported where it is needed alone, and so is not named here.
Remote: TypeAlias = Any
Place: TypeAlias = Path | Remote


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
