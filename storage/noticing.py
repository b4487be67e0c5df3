"""How a change of an image folder is noticed: by the kernel's events where it lies on this machine, else by looking."""

import fcntl
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import Literal, Protocol

import pyarrow as pa

from storage.place import Place
from storage.walk import wrapped

logger = logging.getLogger(__name__)

How = Literal["auto", "events", "listing"]
TICK_MS = 250
# Of what others do on these, the kernel of this machine tells nothing.
NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "fuse",
    "9p",
    "afs",
    "ceph",
    "gfs",
    "glusterfs",
    "lustre",
    "beegfs",
    "virtiofs",
    "vboxsf",
)


class Noticing(Protocol):
    """Tells when to look at a folder. A signal to the process ends each of these at once."""

    def wait(self, seconds: float) -> bool:
        """Wait until something changes, or for so long; whether something is known to have changed."""
        ...

    def rest(self, quiet_seconds: float, most_seconds: float) -> bool:
        """Wait until nothing changes, for `most_seconds` at most; whether nothing is known to have changed for `quiet_seconds`."""
        ...


class Listing:
    """Knows nothing of changes: only another look can tell."""

    def wait(self, seconds: float) -> bool:
        time.sleep(seconds)
        return False

    def rest(self, quiet_seconds: float, most_seconds: float) -> bool:
        time.sleep(quiet_seconds)
        return False


class Events:
    """The kernel's events of a folder and all below it, from the moment that this is made until it is closed.

    A thread waits for them: in the main one watchfiles would make an interruption of every signal.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._changed, self._is_over = threading.Event(), threading.Event()
        self._begin()

    def _begin(self) -> None:
        self._identity, self._was_removed = _identity(self._folder), False
        began: Queue[Exception | None] = Queue()
        self._thread = threading.Thread(target=self._listen, args=(began,), daemon=True)
        self._thread.start()
        if (error := began.get()) is not None:
            raise error

    def _listen(self, began: Queue[Exception | None]) -> None:
        from watchfiles import Change, watch

        try:
            changes = watch(
                self._folder,
                watch_filter=None,
                debounce=1000,
                step=50,
                rust_timeout=TICK_MS,
                yield_on_timeout=True,
                ignore_permission_denied=True,
                force_polling=False,
                stop_event=self._is_over,
            )
            for number, found in enumerate(changes):
                if found:
                    # What is made in its place may be given its inode, and so look the same.
                    self._was_removed |= (Change.deleted, os.fspath(self._folder)) in found
                    self._changed.set()
                if number == 0:  # it watches from here on
                    began.put(None)
        except Exception as error:  # the folder is gone, or there are too many below it
            began.put(error)
            self._changed.set()

    def wait(self, seconds: float) -> bool:
        self._renew()
        has_changed = self._changed.wait(seconds)
        self._changed.clear()
        return has_changed

    def rest(self, quiet_seconds: float, most_seconds: float) -> bool:
        deadline = time.monotonic() + most_seconds
        while time.monotonic() < deadline:
            if not self._changed.wait(quiet_seconds):
                return True
            self._changed.clear()
        return False

    def _renew(self) -> None:
        """Begin anew where the folder is another one of the same name: what was mounted or made again since."""
        identity = _identity(self._folder)
        is_same = identity == self._identity and not self._was_removed and self._thread.is_alive()
        if identity is None or is_same:
            return
        self.close()
        self._is_over = threading.Event()
        try:
            self._begin()
            self._changed.set()
        except (OSError, RuntimeError):
            self._changed.clear()

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()


def _identity(folder: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        status = os.stat(folder)
        return status.st_dev, status.st_ino
    return None


@contextmanager
def noticing(folder: Place, how: How = "auto") -> Iterator[Noticing]:
    """The way that suits where a folder lies, unless one is asked for."""
    found = _noticing(folder, how)
    try:
        yield found
    finally:
        if isinstance(found, Events):
            found.close()


def _noticing(folder: Place, how: How) -> Noticing:
    if how == "listing" or not isinstance(folder, Path):
        return Listing()
    kind = file_system(folder, mounts())
    if how == "auto" and kind.startswith(NETWORK):
        logger.info("%s lies on %s: looking at it instead of waiting for events", folder, kind)
        return Listing()
    try:
        return Events(folder)
    except (OSError, RuntimeError) as error:
        logger.warning("no events of %s (%s): looking at it instead", folder, error)
        return Listing()


def mounts() -> str:
    """The kernel's table of what is mounted where; empty where there is none."""
    with suppress(OSError):
        return Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return ""


def file_system(folder: Path, table: str) -> str:
    """The type of the file system that a folder lies on, from the text of /proc/self/mountinfo; empty where it does not say."""
    real = os.path.realpath(folder)
    found, longest = "", -1
    for line in table.splitlines():
        fields, _, rest = line.partition(" - ")
        point = _unescaped(fields.split(" ")[4]) if rest else ""
        if point and (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= longest:
            found, longest = rest.split(" ")[0], len(point)
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def incomplete(root: Place, files: pa.Table) -> pa.Table:
    """Those of the scanned files that a process of this machine has open for writing, or that were written since their scan.

    files: rows of SCAN_SCHEMA. The kernel gives a lease for reading on a file that nobody writes to, to its owner. Where it
    gives none for another reason only the file's size and times tell. An object is there whole or not at all.
    """
    if not isinstance(root, Path):
        return files.slice(0, 0)
    folder = os.fsencode(root)
    scanned = zip(*(files[name].to_pylist() for name in ("path", "size", "mtime_ns")), strict=True)
    mask = [_is_incomplete(os.path.join(folder, path), size, mtime_ns) for path, size, mtime_ns in scanned]
    return files.filter(pa.array(mask, pa.bool_()))


def _is_incomplete(path: bytes, size: int, mtime_ns: int) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if _is_being_written(descriptor):
            return True
        status = os.fstat(descriptor)  # after the lease: a writer that closed it just now has written all
        return (status.st_size, wrapped(status.st_mtime_ns)) != (size, mtime_ns)
    finally:
        os.close(descriptor)


def _is_being_written(descriptor: int) -> bool:
    if not hasattr(fcntl, "F_SETLEASE"):  # only Linux has leases
        return False
    try:
        # Whoever opens the file for writing while the lease lasts makes the kernel send a signal: one that does nothing.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
