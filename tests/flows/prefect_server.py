"""A real Prefect server that every process of a test session shares."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

START_SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def shared_server(home: Path) -> Iterator[str]:
    """The address of a full server (with its scheduler). The first process that asks starts it, the last one ends it.

    home: what the server and the processes keep; it is there.
    """
    state = home / "server.json"
    with open(home / "users", "w") as users:
        with locked(home):
            if not state.exists():
                state.write_text(json.dumps(_start(home)))
            fcntl.flock(users, fcntl.LOCK_SH)
        server = json.loads(state.read_text())
        try:
            yield server["address"]
        finally:
            _send_the_rest()
            with locked(home):
                fcntl.flock(users, fcntl.LOCK_UN)
                if _is_last(users):
                    state.unlink()
                    _end(server["pid"])


def once(folder: Path, make: Callable[[], dict]) -> dict:
    """What `make` returned to the first process that asked; the others wait for it."""
    folder.mkdir(exist_ok=True)
    made = folder / "made.json"
    with locked(folder):
        if not made.exists():
            made.write_text(json.dumps(make()))
    return json.loads(made.read_text())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _send_the_rest() -> None:
    """Send the logs and events that Prefect in this process still keeps, while there is a server for them."""
    if "prefect" in sys.modules:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        for worker in (APILogWorker, EventsWorker):
            worker.drain_all(timeout=10)


def _is_last(users) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(home: Path) -> dict:
    port, log = free_port(), home / "server.log"
    with open(log, "wb") as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=os.environ | {"PREFECT_HOME": str(home)},
            cwd=home,
            stdout=lines,
            stderr=lines,
        )
    address = f"http://127.0.0.1:{port}/api"
    wait_for_health(process, address, log)
    process.returncode = 0  # no warning that it still runs: the last process of the session ends it
    return {"address": address, "pid": process.pid}


def wait_for_health(process: subprocess.Popen, address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    process.kill()
    pytest.fail(f"the Prefect server did not start:\n{log.read_text()}")


def _end(pid: int) -> None:
    """Ask the server to leave, and end it after 20 seconds. Another process of the session may have started it."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 20
        try:
            os.kill(pid, kind)
            while time.monotonic() < deadline:
                _reap(pid)
                os.kill(pid, 0)
                time.sleep(0.1)
        except ProcessLookupError:
            return


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):  # the server is the child of another process
        os.waitpid(pid, os.WNOHANG)
