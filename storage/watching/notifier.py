"""Detect changes of an image folder: by kernel events on a local disk, otherwise by repeated listings."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import Literal, Protocol

from storage.backend.paths import Place
from storage.watching.mounts import NETWORK, file_system, mounts

logger = logging.getLogger(__name__)

How = Literal["auto", "events", "listing"]
TICK_MS = 250


class Notifier(Protocol):
    """Tells when to scan a folder. A signal to the process ends each wait at once."""

    def wait(self, seconds: float) -> bool:
        """Wait until something changes, at most `seconds`. Returns whether a change is known."""
        ...

    def rest(self, quiet_seconds: float, most_seconds: float) -> bool:
        """Wait until nothing has changed for `quiet_seconds`, at most `most_seconds`. Returns whether that is known."""
        ...


class Polling:
    """Waits without events. It knows of no change: only another scan can tell."""

    def wait(self, seconds: float) -> bool:
        time.sleep(seconds)
        return False

    def rest(self, quiet_seconds: float, most_seconds: float) -> bool:
        time.sleep(quiet_seconds)
        return False


class Events:
    """Kernel events of a folder and all below it, from construction to `close`.

    A thread waits for them, because in the main thread watchfiles would turn every signal into an interrupt. The
    constructor raises OSError or RuntimeError if the kernel cannot watch the folder.
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
                    # A folder made in its place may get the same inode, and so the same identity.
                    self._was_removed |= (Change.deleted, os.fspath(self._folder)) in found
                    self._changed.set()
                if number == 0:  # the watch is active from here on
                    began.put(None)
        except Exception as error:  # the folder is gone, or has too many folders below it to watch
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
        """Restart if another folder has taken the path, by a mount or a new folder, or if the thread has ended."""
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
def notifier(folder: Place, how: How = "auto") -> Iterator[Notifier]:
    """Yield the notifier for a folder: the one asked for by `how`, or with `auto` the one for its file system."""
    found = _notifier(folder, how)
    try:
        yield found
    finally:
        if isinstance(found, Events):
            found.close()


def _notifier(folder: Place, how: How) -> Notifier:
    if how == "listing" or not isinstance(folder, Path):
        return Polling()
    kind = file_system(folder, mounts())
    if how == "auto" and kind.startswith(NETWORK):
        logger.info("%s is on %s: polling it, because the kernel reports no events of other machines", folder, kind)
        return Polling()
    try:
        return Events(folder)
    except (OSError, RuntimeError) as error:
        logger.warning("cannot watch %s (%s): polling it instead", folder, error)
        return Polling()
