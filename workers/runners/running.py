"""The runners of this process: created once per name, slots and logs, and closed with the run that uses them."""

import atexit
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
        if key not in _runners:
            _runners[key] = RUNNERS[name](slots, logs)
        return _runners[key]


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
        for key in [key for key in _runners if key[2] == logs]:
            _runners.pop(key).close()


@atexit.register
def _end_all_runners() -> None:
    for logs in {logs for *_, logs in _runners}:
        end_runners(logs)
