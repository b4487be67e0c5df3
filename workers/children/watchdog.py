"""The watchdog kills a child that is silent too long, holds the same images too long, or fills too much memory."""

import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from workers.children.in_flight import InFlight, Stage

LOOK_SECONDS = 0.2

# The largest image allowed decodes in seconds. A network share may take minutes to recall a file, and a slow machine
# minutes to infer a batch.
STAGE_SECONDS: dict[Stage, float] = {"read": 300.0, "decode": 60.0, "infer": 300.0}


@dataclass(frozen=True)
class Breach:
    """Why the watchdog killed a child. code: `timeout`, or `crashed` for memory. reason: a clause."""

    code: Literal["timeout", "crashed"]
    reason: str


@dataclass(frozen=True)
class Limits:
    """Limits of a job in its process; None: no limit.

    silence_seconds: longest time without a record. memory_mb: most private memory (`own_memory_mb`). stage_seconds:
    longest time that a stage may hold the same images.
    """

    silence_seconds: float | None = None
    memory_mb: float | None = None
    stage_seconds: dict[Stage, float] = field(default_factory=lambda: dict(STAGE_SECONDS))

    def breach(self, pid: int, in_flight: InFlight) -> Breach | None:
        """The limit of memory or of a stage that the child exceeds, or None."""
        for stage, seconds in in_flight.seconds().items():
            if seconds > self.stage_seconds[stage]:
                return Breach(
                    "timeout", f"it took more than {self.stage_seconds[stage]:g} s to {stage} its in-flight images"
                )
        if self.memory_mb is not None and (held := own_memory_mb(pid)) > self.memory_mb:
            return Breach(
                "crashed", f"it used {held:,.0f} MB of memory, more than its limit of {self.memory_mb:,.0f} MB"
            )
        return None


def own_memory_mb(pid: int) -> float:
    """Memory in MB that a process has filled and that no file backs; 0 if the system does not report it.

    The address space does not count, because TensorFlow reserves three times what it fills. Pages of mapped files do
    not count either, because the kernel reclaims them when it needs memory.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return (
            sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:", "VmSwap:"))) / 1024
        )
    except (OSError, ValueError):
        return 0.0


class Watchdog:
    """Checks a child five times a second while the block runs, and kills it when it exceeds a limit.

    The limit of silence counts from the last call of `reset`. breach: why the watchdog killed the child, else None.
    """

    def __init__(self, process: subprocess.Popen, limits: Limits, in_flight: InFlight | None = None):
        self.breach: Breach | None = None
        self._process, self._limits, self._in_flight = process, limits, in_flight
        self._last_record = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def reset(self) -> None:
        """Restart the limit of silence, since the child has sent a record."""
        self._last_record = time.monotonic()

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.breach = self._find_breach()
            if self.breach is not None:
                self._process.kill()
                return

    def _find_breach(self) -> Breach | None:
        longest = self._limits.silence_seconds
        if longest is not None and time.monotonic() - self._last_record > longest:
            return Breach("timeout", f"it reported nothing for {longest:g} s")
        return self._limits.breach(self._process.pid, self._in_flight) if self._in_flight is not None else None
