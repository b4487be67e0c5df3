"""A file layer that fails, dies, or loses its power at the n-th call: what a store has to survive.

It stands between the rooms and the operating system, for all that Python itself opens, writes, reads, links, renames,
removes, lists and syncs below one folder. What pyarrow reads natively passes by it.
"""

import builtins
import errno
import io
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

Way = Literal["counts", "fails", "dies", "loses power"]
REAL = {name: getattr(os, name) for name in ("link", "replace", "rename", "unlink", "mkdir", "scandir", "listdir")}
REAL_OPEN = builtins.open


class Died(BaseException):
    """The process is no more: nothing that follows in it reaches the disk, not even tidying up."""


class FaultyDisk:
    """Counts the calls that touch `folder`, and lets the one numbered `at` go wrong.

    fails: that call raises EIO, or ENOSPC where it writes, and all others work. dies: half of what it writes
    arrives, and no later call does anything. loses power: as `dies`; then what was not synced is lost, each file's
    bytes and each name by the toss of a coin.
    """

    def __init__(self, folder: Path, way: Way, at: int = -1):
        self.folder = os.fsencode(os.path.realpath(folder))
        self.way = way
        self.at = at
        self.calls = 0
        self.is_dead = False
        self._lock = threading.RLock()
        self._unsynced_data: dict[int, bytes] = {}  # inode → a path
        self._unsynced_names: list[tuple[bytes, Callable[[], None]]] = []  # folder, how the change is undone

    def is_mine(self, path: Any) -> bool:
        return not isinstance(path, int) and os.fsencode(os.path.abspath(path)).startswith(self.folder)

    def step(self, kind: str) -> None:
        """One call: raises what this one is to raise."""
        with self._lock:
            if self.is_dead:
                raise Died
            number, self.calls = self.calls, self.calls + 1
            if number != self.at:
                return
            if self.way == "fails":
                raise OSError(
                    *((errno.ENOSPC, "No space left on device") if kind == "write" else (errno.EIO, "I/O error"))
                )
            self.is_dead = True
            if kind != "write":
                raise Died

    # The calls

    def open(self, path: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        if not self.is_mine(path):
            return REAL_OPEN(path, mode, *args, **named)
        self.step("open")
        is_new = not os.path.exists(path)
        file = REAL_OPEN(path, mode, *args, **named)
        if set(mode) & set("wax+"):
            self._data_changed(path)
            if is_new:
                self._name_changed(path, lambda: REAL["unlink"](path))
        return FaultyFile(self, file)

    def fsync(self, descriptor: int) -> None:
        path = os.fsencode(os.readlink(f"/proc/self/fd/{descriptor}"))
        if self.is_mine(path):
            self.step("fsync")
            self._unsynced_data.pop(os.fstat(descriptor).st_ino, None)
            self._unsynced_names = [name for name in self._unsynced_names if name[0] != path]

    def link(self, source: Any, path: Any, **named: Any) -> None:
        if self.is_mine(path):
            self.step("link")
        REAL["link"](source, path, **named)
        if self.is_mine(path):
            self._name_changed(path, lambda: REAL["unlink"](path))

    def replace(self, source: Any, path: Any, **named: Any) -> None:
        if not self.is_mine(path):
            return REAL["replace"](source, path, **named)
        self.step("replace")
        data, before = _content(source), _content(path)
        REAL["replace"](source, path, **named)
        self._name_changed(path, lambda: _restore(path, before))
        self._name_changed(source, lambda: _restore(source, data))

    rename = replace

    def unlink(self, path: Any, **named: Any) -> None:
        if self.is_mine(path):
            self.step("unlink")
            data = _content(path)
            REAL["unlink"](path, **named)
            self._name_changed(path, lambda: _restore(path, data))
        else:
            REAL["unlink"](path, **named)

    def mkdir(self, path: Any, *args: Any, **named: Any) -> None:
        if self.is_mine(path):
            self.step("mkdir")
        REAL["mkdir"](path, *args, **named)
        if self.is_mine(path):
            self._name_changed(path, lambda: shutil.rmtree(path, ignore_errors=True))

    def scandir(self, path: Any = ".") -> Any:
        if self.is_mine(path):
            self.step("list")
        return REAL["scandir"](path)

    def listdir(self, path: Any = ".") -> Any:
        if self.is_mine(path):
            self.step("list")
        return REAL["listdir"](path)

    # What would be lost

    def _data_changed(self, path: Any) -> None:
        self._unsynced_data[os.stat(path).st_ino] = os.fsencode(os.path.abspath(path))

    def _name_changed(self, path: Any, undo: Callable[[], None]) -> None:
        self._unsynced_names.append((os.path.dirname(os.fsencode(os.path.abspath(path))), undo))

    def lose_power(self) -> None:
        toss = random.Random(self.at)
        for inode, path in self._unsynced_data.items():
            if toss.random() < 0.5:
                for found in _paths_of(self.folder, inode, path):
                    os.truncate(found, toss.randint(0, os.path.getsize(found)))
        for _, undo in reversed(self._unsynced_names):
            if toss.random() < 0.5:
                with suppress(FileNotFoundError, NotADirectoryError):  # its folder may be lost as well
                    undo()


class FaultyFile:
    """An open file whose reads and writes count."""

    def __init__(self, disk: FaultyDisk, file: Any):
        self._disk = disk
        self._file = file

    def write(self, data: Any) -> int:
        self._disk.step("write")
        if self._disk.is_dead:
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            raise Died
        return self._file.write(data)

    def read(self, *args: Any) -> Any:
        self._disk.step("read")
        return self._file.read(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "FaultyFile":
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


def _content(path: Any) -> bytes | None:
    try:
        with REAL_OPEN(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _restore(path: Any, data: bytes | None) -> None:
    if data is None:
        REAL["unlink"](path)
    else:
        with REAL_OPEN(path, "wb") as file:
            file.write(data)


def _paths_of(folder: bytes, inode: int, path: bytes) -> list[bytes]:
    """Every name of a file below a folder."""
    found = [os.path.join(above, name) for above, _, names in os.walk(folder) for name in names]
    return [other for other in found if os.stat(other).st_ino == inode][:1] or ([path] if os.path.exists(path) else [])


@contextmanager
def faults(monkeypatch: Any, folder: Path, way: Way, at: int = -1) -> Iterator[FaultyDisk]:
    """Let everything below `folder` go through a FaultyDisk for the length of the block; its death ends the block."""
    disk = FaultyDisk(folder, way, at)
    with monkeypatch.context() as patch:
        for name in (*REAL, "fsync"):
            patch.setattr(os, name, getattr(disk, name))
        patch.setattr(builtins, "open", disk.open)
        patch.setattr(io, "open", disk.open)
        try:
            yield disk
        except Died:
            assert disk.is_dead
    if disk.is_dead and way == "loses power":
        disk.lose_power()
