"""Allow one run per store at a time, by a kernel lock. The kernel releases it when the holder dies."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from storage.backend.atomic import make_folder
from storage.backend.paths import Place, is_local
from storage.errors import StoreBusy

POLL_SECONDS = 0.2


@contextmanager
def hold(root: Place, wait_seconds: float = 0, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock of the store at `root` while the block runs.

    say: receives one message if the lock is not free at once.

    An object store has no lock: several runs may work at once, and each commit builds on the one before.

    Raises StoreBusy if the lock is not free after `wait_seconds`. The message names the holder's pid and start time.
    """
    if not is_local(root):
        yield
        return
    make_folder(root)
    deadline = time.monotonic() + wait_seconds
    with open(root / "lock", "a+") as file:
        while not _try_lock(file.fileno()):
            if time.monotonic() >= deadline:
                raise StoreBusy(f"the store {root} is in use{_holder(file)}; wait for it, or pass `wait=SECONDS`")
            if say is not None:
                say(f"the store {root} is in use{_holder(file)}: waiting until it is free")
                say = None
            time.sleep(POLL_SECONDS)
        file.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(json.dumps({"pid": os.getpid(), "since": since}))
        file.flush()
        yield


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Hold the lock `file` exclusively while the block runs. Waits without limit for processes of this machine."""
    make_folder(file.parent)
    with open(file, "a") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        yield


@contextmanager
def claim(file: Path, busy: StoreBusy) -> Iterator[None]:
    """Hold the lock `file` exclusively while the block runs. Raises `busy` if a process of this machine holds it."""
    make_folder(file.parent)
    with open(file, "a") as lock:
        if not _try_lock(lock.fileno()):
            raise busy
        yield


@contextmanager
def sharing(file: Path, when_unused: Callable[[], None]) -> Iterator[None]:
    """Hold the lock `file` shared with other processes of this machine while the block runs.

    when_unused: called first if no other process holds the lock.
    """
    make_folder(file.parent)
    with open(file, "a") as lock:
        if _try_lock(lock.fileno()):
            when_unused()
        fcntl.flock(lock.fileno(), fcntl.LOCK_SH)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f" by process {holder['pid']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return " by another process"
