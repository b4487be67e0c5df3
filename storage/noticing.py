"""How a change of an image folder is noticed: by the kernel's events where it lies on this machine, else by looking."""

import fcntl
import logging
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa

from storage.place import Place

logger = logging.getLogger(__name__)

How = Literal["auto", "events", "listing"]
TICK_SECONDS = 0.25
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
    """Tells when to look at a folder."""

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
    """The kernel's events of a folder and all below it, from the moment that this is made."""

    def __init__(self, folder: Path):
        from watchfiles import watch

        self._folder = folder
        self._changes: Iterator[set] = watch(
            folder,
            watch_filter=None,
            debounce=1000,
            step=50,
            rust_timeout=int(1000 * TICK_SECONDS),
            yield_on_timeout=True,
            ignore_permission_denied=True,
            force_polling=False,
        )
        next(self._changes)  # it begins to watch only now

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if next(self._changes):
                return True
        return False

    def rest(self, quiet_seconds: float, most_seconds: float) -> bool:
        began = last = time.monotonic()
        while time.monotonic() - began < most_seconds:
            if next(self._changes):
                last = time.monotonic()
            elif time.monotonic() - last >= quiet_seconds:
                return True
        return False


def noticing(folder: Place, how: How = "auto") -> Noticing:
    """The way that suits where a folder lies, unless one is asked for."""
    if how == "listing" or not isinstance(folder, Path):
        return Listing()
    kind = file_system(folder, mounts())
    if how == "auto" and kind.startswith(NETWORK):
        logger.info("%s lies on %s: looking at it instead of waiting for events", folder, kind)
        return Listing()
    try:
        return Events(folder)
    except OSError as error:  # of too many folders, too many events
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


def being_written(root: Place, files: pa.Table) -> pa.Table:
    """Those of the files that a process of this machine has open for writing.

    The kernel gives a lease for reading on a file that nobody writes to, to its owner. Where it gives none for another reason
    the file counts as complete: that nothing has changed for a while has to do. An object is there whole or not at all.
    """
    if not isinstance(root, Path) or not hasattr(fcntl, "F_SETLEASE"):
        return files.slice(0, 0)
    folder = os.fsencode(root)
    mask = [_is_being_written(os.path.join(folder, path)) for path in files["path"].to_pylist()]
    return files.filter(pa.array(mask, pa.bool_()))


def _is_being_written(path: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
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
    finally:
        os.close(descriptor)
    return False
