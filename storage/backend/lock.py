"""One run per store at a time: a kernel lock that the death of its holder releases."""

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
    """Hold the store at `root` for the length of the block.

    say: is told, once, where it has to wait.

    An object store has no lock: several runs may work, and of their commits each builds on the one before.

    Raises StoreBusy, with the pid of the holder and since when, if it is not free after
    `wait_seconds`.
    """
    if not is_local(root):
        yield
        return
    make_folder(root)
    deadline = time.monotonic() + wait_seconds
    with open(root / "lock", "a+") as file:
        while not _try_lock(file.fileno()):
            if time.monotonic() >= deadline:
                raise StoreBusy(f"the store {root} is in use{_holder(file)}; wait for it, or pass --wait SECONDS")
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
    """Wait until no other process of this machine holds the lock `file`, and hold it for the length of the block."""
    make_folder(file.parent)
    with open(file, "a") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        yield


@contextmanager
def sharing(file: Path, when_unused: Callable[[], None]) -> Iterator[None]:
    """Use what the lock `file` stands for together with other processes of this machine, for the length of the block.

    when_unused: is called first where nobody else uses it.
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
