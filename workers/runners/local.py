"""Leases of child processes: started when needed, timed out, replaced when they die. No Prefect here."""

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from textwrap import shorten
from typing import Any

from storage.errors import InputError, NoRoom, StorageError, StoreBusy, StoreDamaged, TooManyRemovals
from vision.errors import SpecError, WeightsError
from workers.children.in_flight import InHand
from workers.children.watchdog import Breach, Limits, Watch
from workers.devices import Slot

# How long a child may take to start Python and accept a job; TensorFlow is loaded after that.
START_SECONDS = 120.0
PROJECT = Path(__file__).parents[2]
EXPECTED = {
    kind.__name__: kind
    for kind in (InputError, StorageError, StoreBusy, StoreDamaged, NoRoom, TooManyRemovals, SpecError, WeightsError)
}
# Python's own errors of a program that is wrong: the same work raises them again.
CERTAIN = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)
LONGEST_MESSAGE = 300  # TensorFlow and Keras put graphs and configurations into theirs


class WorkerDied(RuntimeError):
    """A child ended, or had to be ended, in the middle of a job. Trying again can help.

    code: `timeout` where it was ended for the time that it took, else `crashed`.
    """

    def __init__(self, message: str, code: str = "crashed"):
        super().__init__(message)
        self.code = code


class PoolClosed(RuntimeError):
    """The run is ending: no child works for it any more. Trying again cannot help."""


class WorkerFailed(RuntimeError):
    """A job raised something unforeseen in a child; its log has the traceback.

    can_help: another try may go otherwise.
    """

    def __init__(self, message: str, can_help: bool = True):
        super().__init__(message)
        self.can_help = can_help


# What a child runs; it hears and says what workers/children/child.py tells.
CHILD = (sys.executable, "-m", "workers.children.child")


class Worker:
    """One child in a slot. Its standard error goes to a log of its own, never to the flow's pipes."""

    def __init__(self, slot: Slot, log: Path):
        self.slot = slot
        self.log = log
        self.in_hand = InHand.create()
        self.is_busy = False
        self.is_closed = False
        self._process: subprocess.Popen[bytes] | None = None

    def call(
        self,
        kind: str,
        job: dict,
        on_progress: Callable[[dict], None],
        silence_seconds: float | None,
        limits: Limits | None = None,
    ) -> Any:
        """Run a job in the child and return its result.

        Raises WorkerDied where the child ends, says nothing for `silence_seconds` or is over its `limits`, PoolClosed
        where the run is ending, the error's own type where it is one of ours or the machine's, else WorkerFailed.
        After WorkerDied, `in_hand` is what the child left it.
        """
        self.is_busy = True
        self.in_hand.clear()
        process = self._accepting({"kind": kind, "job": job, "in_hand": self.in_hand.descriptor})
        with Watch(process, silence_seconds, self.in_hand, limits) as watch:
            while message := _read_message(process):
                watch.heard()
                self.is_busy = "progress" in message
                if "result" in message:
                    return message["result"]
                if "error" in message:
                    raise self._error(**message["error"])
                on_progress(message["progress"])
        status = process.wait()
        if self.is_closed:
            raise PoolClosed(f"the run ended while a {kind} was going on")
        raise self._death(process.pid, status, kind, watch.breach)

    def _death(self, pid: int, status: int, kind: str, breach: Breach | None) -> WorkerDied:
        if breach is None:
            return WorkerDied(f"child {pid} ended with status {status} in the middle of a {kind}; see {self.log}")
        return WorkerDied(
            f"child {pid} was ended in the middle of a {kind}: {breach.words}; see {self.log}", breach.code
        )

    def _accepting(self, request: dict) -> subprocess.Popen[bytes]:
        """A child that has accepted the job. One that was idle may have left a moment ago: once more with a new one."""
        line = json.dumps(request).encode() + b"\n"
        for _ in range(2):
            if self.is_closed:
                raise PoolClosed("the run has ended")
            process = self._process = self._running()
            try:
                os.write(process.stdin.fileno(), line)  # type: ignore[union-attr]
                with Watch(process, START_SECONDS):
                    if not self.is_closed and _read_line(process):
                        return process
            except (BrokenPipeError, ValueError):
                pass  # it left, or stop() closed its pipes
            self.stop()
        if self.is_closed:
            raise PoolClosed("the run has ended")
        raise WorkerDied(f"a child could not be started; see {self.log}")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.stop()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), **self.slot.environment}
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                CHILD,
                cwd=PROJECT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(self.in_hand.descriptor,),
            )

    def _error(
        self, kinds: list[str], message: str, errno: int | None, strerror: str | None, filename: str | None
    ) -> Exception:
        """What a child raised. kinds: the names of its type and of those that it is derived from."""
        expected = next((EXPECTED[kind] for kind in kinds if kind in EXPECTED), None)
        if expected is not None:
            return expected(message)
        if errno is not None:
            return OSError(errno, shorten(strerror or os.strerror(errno), LONGEST_MESSAGE, placeholder=" …"), filename)
        is_certain = not {kind.__name__ for kind in CERTAIN}.isdisjoint(kinds)
        words = shorten(f"{kinds[0]}: {message}", LONGEST_MESSAGE, placeholder=" …")
        return WorkerFailed(f"{words}; see {self.log}", can_help=not is_certain)

    def stop(self) -> None:
        """End the child at once, whatever it is doing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            process.stdin.close()  # type: ignore[union-attr]
            process.stdout.close()  # type: ignore[union-attr]


def _read_line(process: subprocess.Popen[bytes]) -> bytes:
    """The child's next line, empty at its end."""
    try:
        return process.stdout.readline()  # type: ignore[union-attr]
    except ValueError:  # closed meanwhile, by stop() in another thread
        return b""


def _read_message(process: subprocess.Popen[bytes]) -> dict | None:
    """The child's next record; None where it ended, in the middle of a line or between two."""
    line = _read_line(process)
    return json.loads(line) if line.endswith(b"\n") else None


class WorkerPool:
    """One child a slot, each leased to one caller at a time."""

    def __init__(self, slots: tuple[Slot, ...], logs: Path):
        self.slots = slots
        self._workers = [Worker(slot, logs / f"worker-{number}.log") for number, slot in enumerate(slots)]
        self._free: Queue[Worker] = Queue()
        for worker in self._workers:
            self._free.put(worker)

    @contextmanager
    def lease(self) -> Iterator[Worker]:
        """A worker of one's own for the length of the block; waits until one is free."""
        worker = self._free.get()
        try:
            if worker.is_closed:
                raise PoolClosed("the run has ended")
            yield worker
        except BaseException:
            if worker.is_busy:
                worker.stop()  # in the middle of who knows what
            raise
        finally:
            self._free.put(worker)

    def close(self) -> None:
        for worker in self._workers:
            worker.is_closed = True
            worker.stop()


_pools: dict[tuple[tuple[Slot, ...], Path], WorkerPool] = {}
_ended: set[Path] = set()
_pools_lock = threading.Lock()


def pool(slots: tuple[Slot, ...], logs: Path) -> WorkerPool:
    """This process's pool for these slots, made once. Raises PoolClosed after `end_pools(logs)`."""
    with _pools_lock:
        if logs in _ended:
            raise PoolClosed("the run has ended")
        if (slots, logs) not in _pools:
            _pools[slots, logs] = WorkerPool(slots, logs)
        return _pools[slots, logs]


@contextmanager
def running(logs: Path) -> Iterator[None]:
    """Let pools with these logs work for the length of the block; after it their children are gone.

    A task run that is still waiting then, or is tried again, gets PoolClosed instead of a new child.
    """
    with _pools_lock:
        _ended.discard(logs)
    try:
        yield
    finally:
        end_pools(logs)


def end_pools(logs: Path) -> None:
    """End every child of the pools with these logs, for good."""
    with _pools_lock:
        _ended.add(logs)
        for key in [key for key in _pools if key[1] == logs]:
            _pools.pop(key).close()


@atexit.register
def _end_all_pools() -> None:
    for logs in {logs for _, logs in _pools}:
        end_pools(logs)
