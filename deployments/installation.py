"""Start and stop an installation on this machine."""

import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from deployments.definitions import PROJECT, parameters_of, with_python
from deployments.parameters import prepare
from deployments.supervisor import MARK, STOP_SECONDS, end_marked, marked
from flows.registry import WATCH
from storage.errors import InputError

# The first start migrates the database and imports everything from a cold disk.
START_SECONDS = 300.0


class CannotStart(OSError):
    """The server, the deployments or the worker did not start."""


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
    def watching_inbox(self) -> Path:
        """Parameters of the watcher of the inbox; there is no file if nobody watches it."""
        return self.path / "watching-inbox.yaml"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def make(self) -> None:
        """Create the folders, readable only by their owner."""
        for folder in (self.path, self.logs, self.path / "weights", self.path / "inbox"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def password(self) -> str:
        """`admin:` and a random password. It is generated once, and only its owner can read the file."""
        path, aside = self.path / "password", self.path / "password.writing"
        if not path.exists() or not path.read_text():  # an empty password would let everybody in
            aside.unlink(missing_ok=True)
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(f"admin:{secrets.token_urlsafe(24)}")
            aside.replace(path)
        return path.read_text()

    def try_lock(self) -> IO[str] | None:
        """Take the lock and hold it until the file is closed. Returns None if a keeper holds it."""
        file = open(self.lock, "w")  # noqa: SIM115 - the keeper holds it until it ends
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        return file

    def is_up(self) -> bool:
        """Whether a keeper runs."""
        lock = self.try_lock() if self.path.is_dir() else None
        if lock is not None:
            lock.close()
        return self.path.is_dir() and lock is None

    def read(self) -> dict[str, Any]:
        """The state that the keeper has written; empty if there is none."""
        with suppress(OSError, ValueError):
            return json.loads(self.state.read_text())
        return {}

    def write(self, **state: Any) -> None:
        """Replace the state."""
        aside = self.state.with_suffix(".writing")
        aside.write_text(json.dumps(state))
        aside.replace(self.state)


def default_home() -> Home:
    """The folder `extract-and-train` in PREFECT_HOME."""
    prefect = os.environ.get("PREFECT_HOME") or "~/.prefect"
    return Home(Path(prefect).expanduser().absolute() / "extract-and-train")


def origin(port: int) -> str:
    """The address of the server on this machine."""
    return f"http://127.0.0.1:{port}"


def up(home: Home, parameters: dict[str, Any], port: int) -> dict[str, Any]:
    """Start everything, and return the state once it runs.

    Raises InputError if an installation is up already, if the port is in use or if its runs would refuse the
    parameters, and CannotStart if a process does not come up within START_SECONDS.
    """
    home.make()
    if home.is_up():
        raise InputError("an installation is up already; `python -m deployments down` stops it")
    end_marked(home.path)  # processes that a killed keeper left behind
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise InputError(f"--port: another program listens on port {port}; choose another one")
    definitions, roots = prepare(home.path, parameters)
    definitions = with_python(definitions, sys.executable)
    (home.path / "prefect.yaml").write_text(yaml.safe_dump(definitions, sort_keys=False))
    home.write(is_ready=False, port=port, roots=roots)
    watching = parameters_of(definitions, WATCH.name)
    home.watching.write_text(json.dumps(watching))
    home.watching_inbox.unlink(missing_ok=True)
    if "inbox" in parameters:
        inbox = {"images": parameters["inbox"], "store": watching["store"], "layout": "none"}
        home.watching_inbox.write_text(json.dumps(inbox))
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
    """End all processes of the installation, and return how many there were. Deletes no files."""
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
            raise CannotStart(state.get("error") or f"the installation did not start; see {home.logs}")
        time.sleep(0.2)
    raise CannotStart(f"the installation did not start within {START_SECONDS:.0f} s; see {home.logs}")
