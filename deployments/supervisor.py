"""Restart processes that die, and end them together with everything that they started."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# In the environment of everything that belongs to one installation: its folder.
MARK = "EXTRACT_AND_TRAIN_HOME"
# A server needs so long to close its database, a worker to end its runs.
STOP_SECONDS = 30.0
LONGEST_PAUSE = 60.0


@dataclass
class Service:
    """One process, started again when it dies: at once, then after 2, 4, … seconds where it keeps dying."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen | None = None
    pause: float = 1.0
    began: float = field(default=0.0)

    def start(self) -> None:
        with open(self.log, "ab") as lines:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=lines,
                start_new_session=True,
            )
        self.began = time.monotonic()

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def is_due(self) -> bool:
        """Whether it is dead, and the pause after its last start is over."""
        return not self.is_alive() and time.monotonic() - self.began >= self.pause

    def start_again(self) -> None:
        has_lasted = time.monotonic() - self.began > LONGEST_PAUSE
        self.pause = 1.0 if has_lasted else min(2 * self.pause, LONGEST_PAUSE)
        self.start()

    def stop(self) -> None:
        if self.process is None:
            return
        for signal_number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0)):
            if self.is_alive():
                self.process.send_signal(signal_number)
                try:
                    self.process.wait(seconds)
                except subprocess.TimeoutExpired:
                    continue


def keep(services: list[Service], is_over: threading.Event, restarted: Callable[[Service, int | None], None]) -> None:
    """Start again what dies, until it is over; then stop the services, the last one first.

    restarted: hears of each service that was started again, and the status with which it had ended.
    """
    while not is_over.wait(0.5):
        for service in services:
            if service.is_due():
                status = service.process.returncode if service.process else None
                service.start_again()
                restarted(service, status)
    for service in reversed(services):
        service.stop()


def marked(home: Path) -> list[int]:
    """The processes, by id, that belong to an installation, whoever started them and whoever is dead. Linux only."""
    mark, found = f"{MARK}={home}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            is_ours = mark in path.read_bytes().split(b"\0")
        except OSError:  # gone meanwhile, or somebody else's
            continue
        if is_ours and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def end_marked(home: Path, seconds: float = STOP_SECONDS) -> int:
    """End what belongs to an installation, politely and then not; the number of processes that were there."""
    first = marked(home)
    for signal_number, wait in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        for pid in marked(home):
            try:
                os.kill(pid, signal_number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + wait
        while marked(home) and time.monotonic() < deadline:
            time.sleep(0.2)
    return len(first)
