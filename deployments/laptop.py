"""Everything on one machine: a server, its pool and deployments, a worker and a watcher, kept running until `down`.

Lies in a folder of its own below PREFECT_HOME: database, password, logs, and the deployments as they were given.
One process, the keeper, starts the others again when they die; whoever holds its lock is it.
"""

import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from deployments.definitions import PROJECT, parameters_of
from deployments.health import is_healthy
from deployments.parameters import prepare
from deployments.processes import MARK, STOP_SECONDS, Service, end_marked, keep, marked
from deployments.settings import POOL, WORKER, client_settings, server_settings
from flows.reap import PENDING_SECONDS
from storage.errors import InputError

# A first start migrates the database and imports everything from a cold disk.
START_SECONDS = 300.0


class CannotStart(OSError):
    """The server, the deployments or the worker did not come up."""


@dataclass(frozen=True)
class Home:
    """The folder of an installation."""

    path: Path

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def watching(self) -> Path:
        return self.path / "watching.yaml"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def make(self) -> None:
        for folder in (self.path, self.logs, self.path / "weights"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def password(self) -> str:
        """`admin:` and a random word, made once, readable for its owner alone."""
        path, aside = self.path / "password", self.path / "password.writing"
        if not path.exists() or not path.read_text():  # an empty one would let everybody in
            aside.unlink(missing_ok=True)
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(f"admin:{secrets.token_urlsafe(24)}")
            aside.replace(path)
        return path.read_text()

    def try_lock(self) -> IO[str] | None:
        """The lock, held until it is closed; None where a keeper has it."""
        file = open(self.lock, "w")  # noqa: SIM115 - held by the keeper to its end
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        return file

    def is_up(self) -> bool:
        lock = self.try_lock() if self.path.is_dir() else None
        if lock is not None:
            lock.close()
        return self.path.is_dir() and lock is None

    def read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            return json.loads(self.state.read_text())
        return {}

    def write(self, **state: Any) -> None:
        aside = self.state.with_suffix(".writing")
        aside.write_text(json.dumps(state))
        aside.replace(self.state)


def default_home() -> Home:
    prefect = os.environ.get("PREFECT_HOME") or "~/.prefect"
    return Home(Path(prefect).expanduser().absolute() / "extract-and-train")


def origin(port: int) -> str:
    return f"http://127.0.0.1:{port}"


# --- up and down, as they are called ---


def up(home: Home, parameters: dict[str, Any], port: int) -> dict[str, Any]:
    """Stand everything up, and come back when it runs. Raises InputError where it is up already, CannotStart."""
    home.make()
    if home.is_up():
        raise InputError("it is up already; `python -m deployments down` takes it down")
    end_marked(home.path)  # what a keeper that was killed left
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise InputError(f"--port: something listens on {port} already; give another one")
    definitions, roots = prepare(home.path, parameters)
    (home.path / "prefect.yaml").write_text(yaml.safe_dump(definitions, sort_keys=False))
    home.write(is_ready=False, port=port, roots=roots)
    home.watching.write_text(json.dumps(parameters_of(definitions, "watch-images")))
    with open(home.logs / "keeper.log", "ab") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "deployments", "keep", str(home.path)],
            cwd=PROJECT,
            env=os.environ | {MARK: str(home.path)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_ready(home, keeper)
    except BaseException:
        down(home)
        raise
    return home.read()


def down(home: Home) -> int:
    """Take everything down; the number of processes that were there. Nothing is left running, nothing is deleted."""
    from deployments.profile import leave_profile

    found = marked(home.path)
    if home.is_up():
        with suppress(ProcessLookupError, KeyError):
            os.kill(home.read()["keeper"], signal.SIGTERM)
        deadline = time.monotonic() + 3 * STOP_SECONDS
        while home.is_up() and time.monotonic() < deadline:
            time.sleep(0.2)
    end_marked(home.path)
    leave_profile(home.path / "profile-before")
    return len(found)


def _wait_until_ready(home: Home, keeper: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        state = home.read()
        if state.get("is_ready"):
            return
        if keeper.poll() is not None:
            raise CannotStart(state.get("error") or f"it did not come up, see {home.logs}")
        time.sleep(0.2)
    raise CannotStart(f"it did not come up within {START_SECONDS:.0f} s, see {home.logs}")


# --- the keeper ---


def run_keeper(home: Home) -> int:
    """Start the server, then what needs it, and keep all of it running until SIGTERM."""
    lock, is_over = home.try_lock(), threading.Event()
    if lock is None:
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        # Handled, not ignored: children of a process that ignores SIGINT ignore it too, and Prefect's do not end then.
        signal.signal(number, lambda *_: is_over.set())
    state = home.read() | {"keeper": os.getpid()}
    home.write(**state)
    server, *others = services(home, state)
    try:
        _start_server(server, state["port"], is_over)
        if not is_over.is_set():
            _deploy(home, server.environment | others[0].environment)
            threading.Thread(
                target=_reap, args=(home, state["port"], others[0].environment, is_over), daemon=True
            ).start()
            for service in others:
                service.start()
            state["is_ready"] = True
            home.write(**state, **_pids(server, *others))
    except OSError as error:
        home.write(**state | {"error": str(error)})
        server.stop()
        return 1

    def restarted(service: Service, status: int | None) -> None:
        print(time.strftime("%F %T"), f"{service.name} ended with status {status}; started it again", flush=True)
        home.write(**state, **_pids(server, *others))
        threading.Thread(target=_reap, args=(home, state["port"], others[0].environment, is_over), daemon=True).start()

    keep([server, *others], is_over, restarted)
    home.write(**state | {"is_ready": False})
    return 0


def _reap(home: Home, port: int, environment: dict[str, str], is_over: threading.Event) -> None:
    """Once the server answers, let it know which runs died; and again when none can be about to begin any more."""
    for pause in (0.0, PENDING_SECONDS + 10):
        deadline = time.monotonic() + START_SECONDS
        is_over.wait(pause)
        while not is_healthy(origin(port)) and time.monotonic() < deadline:
            if is_over.wait(0.5):
                return
        with open(home.logs / "reap.log", "ab") as lines:
            subprocess.run(
                [sys.executable, "-m", "flows.reap"], env=environment, cwd=PROJECT, stdout=lines, stderr=lines
            )


def _pids(*services: Service) -> dict[str, dict[str, int]]:
    return {"pids": {service.name: service.process.pid for service in services if service.process}}


def services(home: Home, state: dict[str, Any]) -> list[Service]:
    """The server, the worker and the watcher of an installation."""
    at, password = origin(state["port"]), home.password()
    others = (
        "PREFECT_API_",
        "PREFECT_PROFILE",
        "PREFECT_UI_URL",
        "PREFECT_UI_API_URL",
    )  # of the user's own client, not of this server's
    shared = {key: value for key, value in os.environ.items() if not key.startswith(others)}
    shared |= {MARK: str(home.path), "PREFECT_HOME": str(home.path / "prefect"), "PYTHONUNBUFFERED": "1"}
    clients = shared | WORKER | client_settings(at, password) | state["roots"]
    prefect = [sys.executable, "-m", "prefect"]
    commands = {
        "server": (
            [*prefect, "server", "start", "--host", "127.0.0.1", "--port", str(state["port"])],
            shared | server_settings(at, password),
        ),
        "worker": (
            [*prefect, "worker", "start", "--pool", POOL, "--name", "laptop", "--install-policy", "never"],
            clients,
        ),
        "watcher": (
            [sys.executable, str(PROJECT / "flows/watch_images.py"), "--config", str(home.watching)],
            clients,
        ),
    }
    return [Service(name, *command, home.logs / f"{name}.log") for name, command in commands.items()]


def _start_server(server: Service, port: int, is_over: threading.Event) -> None:
    server.start()
    deadline = time.monotonic() + START_SECONDS
    while not is_over.is_set():
        if not server.is_alive() or time.monotonic() > deadline:
            raise CannotStart(f"the Prefect server did not start, see {server.log}")
        if is_healthy(origin(port)):
            return
        time.sleep(0.2)


def _deploy(home: Home, environment: dict[str, str]) -> None:
    """The pool and the deployments, as somebody would type it."""
    for words in (
        ["work-pool", "create", POOL, "--type", "process", "--overwrite"],
        ["--no-prompt", "deploy", "--prefect-file", str(home.path / "prefect.yaml"), "--all"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *words],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
        )
        (home.logs / "deploy.log").write_text(done.stdout + done.stderr)
        if done.returncode:
            raise CannotStart(f"`prefect {' '.join(words)}` failed, see {home.logs / 'deploy.log'}")
