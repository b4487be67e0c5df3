"""The runners of this process: created once per name, slots and logs, and closed with the run that uses them."""

import atexit
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.layout import Store
from workers.devices import Slot
from workers.errors import PoolClosed
from workers.runners.base import Runner, RunnerName
from workers.runners.inline import InlineRunner
from workers.runners.local import LocalRunner

RUNNERS: dict[RunnerName, Callable[[tuple[Slot, ...], Path], Runner]] = {"local": LocalRunner, "inline": InlineRunner}

_runners: dict[tuple[RunnerName, tuple[Slot, ...], Path], Runner] = {}
_ended: set[Path] = set()
_lock = threading.Lock()


def runner(name: RunnerName, slots: tuple[Slot, ...], logs: Path) -> Runner:
    """The runner for these arguments; the first call creates it. Raises PoolClosed after `end_runners(logs)`."""
    with _lock:
        if logs in _ended:
            raise PoolClosed("the run has ended")
        key = name, slots, logs
        return _runners[key] if key in _runners else _create(name, slots, logs)


def new_runner(name: RunnerName, slots: tuple[Slot, ...], logs: Path) -> Runner | None:
    """Create the runner for these arguments ahead of its run; None if it exists. `end_runners(logs)` closes it."""
    with _lock:
        _ended.discard(logs)
        return None if (name, slots, logs) in _runners else _create(name, slots, logs)


def _create(name: RunnerName, slots: tuple[Slot, ...], logs: Path) -> Runner:
    """Create a runner. It replaces one with the same logs, which was created early for other slots."""
    _close_all(logs)
    return _runners.setdefault((name, slots, logs), RUNNERS[name](slots, logs))


@contextmanager
def running(logs: Path) -> Iterator[None]:
    """Allow runners with these logs while the block runs, and close them after it.

    A task run that still waits then, or is retried, gets PoolClosed instead of a new runner.
    """
    with _lock:
        _ended.discard(logs)
    try:
        yield
    finally:
        end_runners(logs)


def end_runners(logs: Path) -> None:
    """Close every runner with these logs, for good. No new one is created until `running(logs)`."""
    with _lock:
        _ended.add(logs)
        _close_all(logs)


def _close_all(logs: Path) -> None:
    for key in [key for key in _runners if key[2] == logs]:
        _runners.pop(key).close()


def extraction_logs(store: Store) -> Path:
    """The folder for the logs of an extraction's children."""
    return store.cache / "logs" / "extraction"


def training_logs(store: Store) -> Path:
    return store.cache / "logs" / "training"


@atexit.register
def _end_all_runners() -> None:
    for logs in {logs for *_, logs in _runners}:
        end_runners(logs)
