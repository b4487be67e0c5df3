"""The local runner: child processes on this machine. It starts them on demand, limits them, and replaces dead ones."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workers.children.failure import Failure
from workers.children.in_flight import InFlight, Stage
from workers.children.watchdog import Breach, Limits, Watchdog
from workers.devices import Slot
from workers.errors import PoolClosed, WorkerDied
from workers.runners.base import NO_LIMITS, Lease, Runner

# How long a child may take to start Python and accept a job. TensorFlow loads after that.
START = Limits(120.0)
PROJECT = Path(__file__).parents[2]


# The command of a child. workers/children/child.py describes its protocol.
CHILD = (sys.executable, "-m", "workers.children.child")


class ChildLease(Lease):
    """One child in a slot. Its standard error goes to its own log, never to the flow's pipes."""

    def __init__(self, slot: Slot, log: Path):
        super().__init__(slot)
        self.log = log
        self._in_flight = InFlight.create()
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, kind: str, job: dict, on_progress: Callable[[dict], None], limits: Limits = NO_LIMITS) -> Any:
        self.is_busy = True
        self._in_flight.clear()
        process = self._accepting({"kind": kind, "job": job, "in_flight": self._in_flight.descriptor})
        with Watchdog(process, limits, self._in_flight) as watchdog:
            while message := _read_message(process):
                watchdog.reset()
                self.is_busy = "progress" in message
                if "result" in message:
                    return message["result"]
                if "error" in message:
                    raise Failure(**message["error"]).exception(self.log)
                on_progress(message["progress"])
        status = process.wait()
        if self.is_closed:
            raise PoolClosed(f"the run ended during a job of kind {kind}")
        raise self._death(process.pid, status, kind, watchdog.breach)

    def _death(self, pid: int, status: int, kind: str, breach: Breach | None) -> WorkerDied:
        if breach is None:
            return WorkerDied(f"child {pid} ended with status {status} during a job of kind {kind}; see {self.log}")
        return WorkerDied(
            f"child {pid} was killed during a job of kind {kind}, because {breach.reason}; see {self.log}", breach.code
        )

    def _accepting(self, request: dict) -> subprocess.Popen[bytes]:
        """A child that has accepted the job. If an idle child exits at that moment, a new one gets the job."""
        line = json.dumps(request).encode() + b"\n"
        for _ in range(2):
            if self.is_closed:
                raise PoolClosed("the run has ended")
            process = self._process = self._running()
            try:
                with Watchdog(process, START):
                    _write_line(process, line)
                    if not self.is_closed and _read_line(process):
                        return process
            except (OSError, ValueError):
                pass  # it exited, or stop() closed its pipes
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
                pass_fds=(self._in_flight.descriptor,),
            )

    def in_flight(self) -> dict[bytes, Stage]:
        return self._in_flight.suspects()

    def stop(self) -> None:
        """Kill the child at once, whatever it is doing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            process.stdin.close()  # type: ignore[union-attr]
            process.stdout.close()  # type: ignore[union-attr]


def _write_line(process: subprocess.Popen[bytes], line: bytes) -> None:
    """Write the whole line. The pipe takes a long one piece by piece, as the child reads it."""
    while line:
        line = line[os.write(process.stdin.fileno(), line) :]  # type: ignore[union-attr]


def _read_line(process: subprocess.Popen[bytes]) -> bytes:
    """The child's next line; empty at the end of its output."""
    try:
        return process.stdout.readline()  # type: ignore[union-attr]
    except ValueError:  # stop() closed the pipe in another thread
        return b""


def _read_message(process: subprocess.Popen[bytes]) -> dict | None:
    """The child's next record; None if the child has ended, between two lines or within one."""
    line = _read_line(process)
    return json.loads(line) if line.endswith(b"\n") else None


class LocalRunner(Runner[ChildLease]):
    """One child per slot. Child N logs to `logs`/worker-N.log."""

    def __init__(self, slots: tuple[Slot, ...], logs: Path):
        super().__init__([ChildLease(slot, logs / f"worker-{number}.log") for number, slot in enumerate(slots)])
