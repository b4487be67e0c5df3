"""The keeper of an installation: it runs a server, a pool, deployments, a worker and a watcher until `down`.

An installation has its own folder below PREFECT_HOME, with the database, the password, the logs and the deployments.
The keeper is one process, which restarts the others when they die. The process that holds the lock is the keeper.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from deployments.definitions import PROJECT
from deployments.health import is_healthy
from deployments.installation import START_SECONDS, CannotStart, Home, origin
from deployments.settings import POOL, WORKER, client_settings, server_settings
from deployments.supervisor import MARK, Service, keep
from flows.reap import PENDING_SECONDS


def run_keeper(home: Home) -> int:
    """Start the server, then what needs it, and keep all of it running until SIGTERM."""
    lock, is_over = home.try_lock(), threading.Event()
    if lock is None:
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        # Handle the signal instead of ignoring it: children inherit an ignored SIGINT, and Prefect's would not end.
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
        print(time.strftime("%F %T"), f"{service.name} ended with status {status}; restarted it", flush=True)
        home.write(**state, **_pids(server, *others))
        threading.Thread(target=_reap, args=(home, state["port"], others[0].environment, is_over), daemon=True).start()

    keep([server, *others], is_over, restarted)
    home.write(**state | {"is_ready": False})
    return 0


def _reap(home: Home, port: int, environment: dict[str, str], is_over: threading.Event) -> None:
    """Reap dead runs once the server answers, and again after PENDING_SECONDS, when runs left Pending count as dead."""
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
    """The server, the worker and the watchers of an installation."""
    at, password = origin(state["port"]), home.password()
    others = (
        "PREFECT_API_",
        "PREFECT_PROFILE",
        "PREFECT_UI_URL",
        "PREFECT_UI_API_URL",
    )  # settings of the user's own client, not of this server
    shared = {key: value for key, value in os.environ.items() if not key.startswith(others)}
    shared |= {MARK: str(home.path), "PREFECT_HOME": str(home.path / "prefect"), "PYTHONUNBUFFERED": "1"}
    clients = shared | WORKER | client_settings(at, password) | state["roots"]
    prefect = [sys.executable, "-m", "prefect"]
    watching = [sys.executable, str(PROJECT / "flows/watch_images.py"), "--config"]
    commands = {
        "server": (
            [*prefect, "server", "start", "--host", "127.0.0.1", "--port", str(state["port"])],
            shared | server_settings(at, password),
        ),
        "worker": (
            [*prefect, "worker", "start", "--pool", POOL, "--name", "laptop", "--install-policy", "never"],
            clients,
        ),
        "watcher": ([*watching, str(home.watching)], clients),
    }
    if home.watching_inbox.exists():
        commands["inbox-watcher"] = [*watching, str(home.watching_inbox)], clients
    return [Service(name, *command, home.logs / f"{name}.log") for name, command in commands.items()]


def _start_server(server: Service, port: int, is_over: threading.Event) -> None:
    server.start()
    deadline = time.monotonic() + START_SECONDS
    while not is_over.is_set():
        if not server.is_alive() or time.monotonic() > deadline:
            raise CannotStart(f"the Prefect server did not start; see {server.log}")
        if is_healthy(origin(port)):
            return
        time.sleep(0.2)


def _deploy(home: Home, environment: dict[str, str]) -> None:
    """Create the pool and the deployments, with the commands a user would type. Raises CannotStart if one fails."""
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
            raise CannotStart(f"`prefect {' '.join(words)}` failed; see {home.logs / 'deploy.log'}")
