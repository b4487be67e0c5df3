"""A Prefect server for one run, if none is configured: `python -m flows.cli.prefect_server` is its process.

The server runs in its own session, so that Ctrl-C reaches only the run. The run can then still report its final
state. The server exits when the run is gone, however the run ended.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from flows.cli.server_database import Database, find_database
from storage.errors import InputError
from storage.layout import Store

PROJECT = Path(__file__).parents[2]
# A first start migrates the database, which takes half a minute on a slow disk.
START_SECONDS = 120.0
STOP_SECONDS = 10.0


START_ONE = "start one with `prefect server start`, and name it with `export PREFECT_API_URL=http://127.0.0.1:4200/api`"
# Settings of Prefect by which a user names a database.
DATABASE_SETTINGS = {"connection_url", "driver", "host", "port", "name", "user", "password"}
# Environment variables and tables of pyproject.toml that may name a server, a database, or a file that names one.
NAMING_VARIABLES = ("PREFECT_API_", "PREFECT_PROFILE", "PREFECT_SERVER_DATABASE_")
NAMING_TABLES = (
    "tool.prefect]",
    "tool.prefect.api",
    "tool.prefect.server.database",
    "tool.prefect.server]",
    "profiles_path",
)
LAPTOP = "extract-and-train"  # the profile that `python -m deployments up` makes


class ServerFailed(RuntimeError):
    """No Prefect server could be started for this run."""

    exit_status = 1


@dataclass(frozen=True)
class OwnServer:
    """A Prefect server that this process has started for itself. log: receives its standard error."""

    process: subprocess.Popen[bytes]
    log: Path
    database: Database | None

    def wait(self) -> None:
        """Wait until the server answers, and use it. Raises ServerFailed if it does not within START_SECONDS."""
        from prefect.context import refresh_global_settings_context

        address = f"http://127.0.0.1:{self.process.stdout.readline().decode().strip()}/api"  # type: ignore[union-attr]
        if not _answers(f"{address}/health", self.process):
            ways = [self.database.way_out] if self.database else []
            raise ServerFailed(
                f"the Prefect server of this run did not start, see {self.log}; {'; or '.join([*ways, START_ONE])}"
            )
        if self.database:
            self.database.keep_template()
        os.environ |= {"PREFECT_API_URL": address, "PREFECT_UI_URL": ""}  # no web pages, so Prefect logs no link
        refresh_global_settings_context()


def start_server(store: Store) -> OwnServer | None:
    """Start a Prefect server for this process and until it ends. Returns None if a server is configured.

    Import whatever else of Prefect only afterwards, and call `OwnServer.wait` before using it. Importing the settings takes
    a second, so the server starts before them if nothing seems to be configured. Only the settings decide.
    """
    early = None if may_be_configured() else _started(store, find_database(store, version("prefect")))
    from prefect.settings import PREFECT_API_URL, get_current_settings

    is_configured = DATABASE_SETTINGS & get_current_settings().server.database.model_fields_set
    if early is not None:
        if not PREFECT_API_URL.value() and not is_configured:
            return early
        _stop(early.process)
    if PREFECT_API_URL.value():
        return None
    return _started(store, None if is_configured else find_database(store, version("prefect")))


def may_be_configured() -> bool:
    """Whether something may name a Prefect server or a database for it. Looks where Prefect looks, without importing it."""
    if any(value and name.startswith(NAMING_VARIABLES) for name, value in os.environ.items()):
        return True
    home = Path(os.environ.get("PREFECT_HOME") or os.path.expanduser("~/.prefect"))
    if any(path.exists() for path in (Path(".env"), Path("prefect.toml"), home / "profiles.toml")):
        return True
    with suppress(OSError):
        return any(name in Path("pyproject.toml").read_text(errors="replace") for name in NAMING_TABLES)
    return False


def _started(store: Store, database: Database | None) -> OwnServer:
    log = store.cache / "logs" / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.prefect_server"],
            cwd=PROJECT,
            env=os.environ | (database.environment if database else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=lines,
            start_new_session=True,
        )
    atexit.register(_stop, process)  # registered first, so it runs last: Prefect talks to the server until then
    return OwnServer(process, log, database)


def check_configured(why: str) -> None:
    """Raise InputError if no Prefect server is configured: an ephemeral one would serve this process alone."""
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise InputError(f"PREFECT_API_URL is not set: {why}; {START_ONE}")


def unreached() -> str:
    """The message that the configured server does not answer, with the way out."""
    from prefect.settings import PREFECT_API_URL, get_current_settings
    from prefect.settings.profiles import load_profiles

    said = f"no Prefect server answers at {PREFECT_API_URL.value()}"
    is_set = "PREFECT_API_URL" in os.environ
    if not is_set and get_current_settings().profiles_path.exists() and load_profiles().active_name == LAPTOP:
        return (
            f"{said}: stand it up again with `python -m deployments up`, or forget it with `python -m deployments down`"
        )
    return f"{said}: start it, or `export PREFECT_API_URL=` to let a run of the pipeline start one for itself"


def shut_out() -> str:
    """The message that the configured server wants another password, with the way out."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

    refused = (
        "refuses the password of PREFECT_API_AUTH_STRING" if PREFECT_API_AUTH_STRING.value() else "wants a password"
    )
    return (
        f"the Prefect server at {PREFECT_API_URL.value()} {refused}: `export PREFECT_API_AUTH_STRING=user:password` with its own, "
        "or `export PREFECT_API_URL=` to let a run of the pipeline start a server for itself"
    )


def _answers(address: str, process: subprocess.Popen) -> bool:
    """Whether the server answers within START_SECONDS. Returns False as soon as it has ended."""
    import urllib.request  # takes 50 ms, which a run with nothing to do saves

    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return True
        except OSError:
            time.sleep(0.05)
    return False


def _stop(process: subprocess.Popen) -> None:
    process.stdin.close()  # type: ignore[union-attr]
    try:
        process.wait(STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # Ctrl-C again: the user does not want to wait
        process.kill()
        process.wait()


def main() -> None:
    # Only flows and tasks use this server: it needs no pages and no scheduler. Plugins are for the command line.
    os.environ |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    os.environ["PREFECT_PLUGINS_ENABLED"] = "false"
    import uvicorn

    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        print(listening.getsockname()[1], flush=True)
        application = "prefect.server.api.server:create_app"
        server = uvicorn.Server(uvicorn.Config(application, factory=True, log_level="error", lifespan="on"))
        server.run(sockets=[listening])


def _leave_with_parent() -> None:
    """Stop the server when standard input closes, since the run has then ended. Kill it if it does not stop in time."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
