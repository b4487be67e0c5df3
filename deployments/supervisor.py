"""Restart processes that die, and end them together with all processes that they started."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# The environment variable that marks every process of an installation; its value is the installation's folder.
MARK = "EXTRACT_AND_TRAIN_HOME"
# The time a server needs to close its database, and a worker to end its runs.
STOP_SECONDS = 30.0
LONGEST_PAUSE = 60.0


@dataclass
class Service:
    """One process that is restarted when it dies: at once, then after 2, 4, … seconds if it keeps dying.

    pause: least seconds between two starts, up to LONGEST_PAUSE. A process that lives longer than LONGEST_PAUSE
    resets it.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen | None = None
    pause: float = 1.0
    began: float = field(default=0.0)

    def start(self) -> None:
        """Start the process in a session of its own. Its output goes to the log."""
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
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def is_due(self) -> bool:
        """Whether the process is dead and the pause since its last start is over."""
        return not self.is_alive() and time.monotonic() - self.began >= self.pause

    def start_again(self) -> None:
        """Restart the process, with a longer pause if it died soon."""
        has_lasted = time.monotonic() - self.began > LONGEST_PAUSE
        self.pause = 1.0 if has_lasted else min(2 * self.pause, LONGEST_PAUSE)
        self.start()

    def stop(self) -> None:
        """End the process with SIGTERM, and with SIGKILL after STOP_SECONDS."""
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
    """Restart services that die until `is_over` is set. Then stop all services in reverse order.

    restarted: called with each restarted service and the exit status of its dead process.
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
    """The ids of an installation's processes, also of those whose parent has died. Linux only."""
    mark, found = f"{MARK}={home}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            is_ours = mark in path.read_bytes().split(b"\0")
        except OSError:  # the process has ended, or belongs to another user
            continue
        if is_ours and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def end_marked(home: Path, seconds: float = STOP_SECONDS) -> int:
    """End the processes of an installation, and return how many there were.

    They get SIGTERM, then SIGKILL after `seconds`.
    """
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
