"""Find files that another process is still writing."""

import fcntl
import os
import signal
from pathlib import Path

import pyarrow as pa

from storage.backend.paths import Place
from storage.source.walk import wrapped


def incomplete(root: Place, files: pa.Table) -> pa.Table:
    """The files that a process of this machine has open for writing, or that were written since their scan.

    files: rows of SCAN_SCHEMA. The kernel grants a file's owner a read lease only while nobody writes the file. If it
    refuses the lease for another reason, only the file's size and times tell. An object is never incomplete.
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
        status = os.fstat(descriptor)  # after the lease test: a writer that has just closed the file has written all
        return (status.st_size, wrapped(status.st_mtime_ns)) != (size, mtime_ns)
    finally:
        os.close(descriptor)


def _is_being_written(descriptor: int) -> bool:
    if not hasattr(fcntl, "F_SETLEASE"):  # only Linux has leases
        return False
    try:
        # If a process opens the file for writing during the lease, the kernel sends a signal. SIGURG does nothing by
        # default.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
