"""Write a file or a folder that somebody asked for at a path: it appears whole, or not at all."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.backend.atomic import make_folder, sync_folder
from storage.errors import InputError


def check_output(path: Path, mark: str, overwrite: bool) -> None:
    """Raise InputError if nothing can be written at `path`, or something exists there that must stay.

    mark: a file that an earlier folder of the same kind has; empty if `path` shall be a file. overwrite: whether an earlier
    file, or an earlier folder with the mark, may be replaced.
    """
    if path.is_dir() and not (mark and (path / mark).is_file()):
        expected = f"has no {mark} and is not replaced; name a new folder" if mark else "is a folder; name a file in it"
        raise InputError(f"`out`: {path} {expected}")
    if path.exists() and mark and not path.is_dir():
        raise InputError(f"`out`: {path} is a file; name a new folder")
    if path.exists() and not overwrite:
        raise InputError(f"`out`: {path} exists; replace it with `overwrite`, or name another place")
    check_writable(path.parent)


def check_writable(folder: Path, what: str = "nothing") -> None:
    """Raise InputError if nothing can be written in a folder, or the folder cannot be made. what: the word for that."""
    there = next(above for above in (folder, *folder.parents) if above.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"`out`: {what} can be written in {there}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new path with the name of `path`; the file or folder there replaces `path` when the block ends without error."""
    make_folder(path.parent)
    aside = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    aside.mkdir()
    try:
        written = aside / path.name
        yield written
        _sync(written)
        if path.is_dir():
            os.rename(path, aside / "replaced")  # a folder cannot be renamed onto another that is not empty
        os.replace(written, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    """Make a file, or a folder with everything in it, durable."""
    if path.is_dir():
        for below in path.iterdir():
            _sync(below)
        sync_folder(path)
        return
    with open(path, "rb") as file:
        os.fsync(file.fileno())
