"""Write a file or a folder that somebody asked for at a path: it appears whole, or not at all."""

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.backend.atomic import make_folder, sync_folder
from storage.backend.lock import claim
from storage.errors import InputError, StoreBusy

FULL = (errno.ENOSPC, errno.EDQUOT)
REPLACED = "replaced"  # in the hidden folder: what was at the path before


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
    try:  # the file system knows more than the permissions say
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise InputError(f"`out`: {what} can be written in {there} ({os.strerror(error.errno or 0)})") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new path with the name of `path`; the file or folder there replaces `path` when the block ends without error.

    Raises OSError, which names `path` if its disk is full. The new path lies in a hidden folder beside `path`. After a `kill -9`,
    the next call for `path` removes it.
    """
    make_folder(path.parent)
    for left in _hidden_folders(path):
        with suppress(OSError, StoreBusy), _owned(left, path):
            pass
    aside = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    with _owned(aside, path):
        written = aside / path.name
        try:
            yield written
            _sync(written)
        except OSError as error:
            if error.errno in FULL:  # a library does not say which disk is full
                raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
            raise
        if path.is_dir():
            os.rename(path, aside / REPLACED)  # a folder cannot be renamed onto another that is not empty
        os.replace(written, path)
        sync_folder(path.parent)


def _hidden_folders(path: Path) -> list[Path]:
    """The folders beside `path` of processes that write it, or were killed while they wrote it."""
    name = re.compile(re.escape(f".{path.name}.") + "[0-9a-f]{32}")
    return [each for each in path.parent.iterdir() if name.fullmatch(each.name) and each.is_dir()]


@contextmanager
def _owned(aside: Path, path: Path) -> Iterator[None]:
    """Hold the lock of a hidden folder, and remove the folder afterwards. Raises StoreBusy if another process holds it.

    What was at `path` before goes back there if nothing has replaced it.
    """
    with claim(aside / "lock", StoreBusy(f"another process writes {path}")):
        try:
            yield
        finally:
            if (aside / REPLACED).exists() and not path.exists():
                os.rename(aside / REPLACED, path)
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
