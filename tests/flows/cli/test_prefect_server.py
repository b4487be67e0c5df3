"""Whoever needs a Prefect server that is not there hears so in one line, and what the line says to type leads on."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_PROFILES_PATH,
    Profile,
    ProfilesCollection,
    save_profiles,
    temporary_settings,
)

from deployments import failure_notification, serve
from flows import reap
from flows.cli import prefect_server
from flows.cli.command import finish, main
from flows.registry import WATCH
from storage.layout import Store
from tests.flows.conftest import PROJECT


@pytest.fixture
def nobody() -> str:
    """The address of a server that is gone."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        return f"http://127.0.0.1:{gone.getsockname()[1]}/api"


def told(capsys, command, *arguments: str) -> tuple[int, str]:
    status = command(list(arguments))
    (line,) = capsys.readouterr().err.strip().splitlines()
    return status, line


@pytest.fixture
def commands(images, store, monkeypatch):
    """Those for which a server of their own is of no use."""
    monkeypatch.setenv("NOTIFY_URL", "http://127.0.0.1:9/call")
    monkeypatch.setattr("sys.argv", ["failure_notification"])
    return {
        "reap": lambda _: reap.main([]),
        "watch": lambda _: main(WATCH, ["--images", str(images), "--store", str(store)]),
        "notify": lambda _: failure_notification.main(),
        "serve": lambda _: finish(lambda *_: serve.main(), []),
    }


@pytest.mark.parametrize("name", ["reap", "watch", "notify", "serve"])
def test_without_a_server_nothing_is_done_on_one_that_nobody_hears(capsys, commands, name):
    with temporary_settings({PREFECT_API_URL: None}):
        status, line = told(capsys, commands[name])
    assert (status, line.startswith("error: PREFECT_API_URL is not set: ")) == (2, True)
    assert "`prefect server start`" in line
    assert "`export PREFECT_API_URL=http://127.0.0.1:4200/api`" in line  # where that command listens


@pytest.mark.parametrize("name", ["reap", "notify"])
def test_a_server_that_does_not_answer_is_told_in_one_line(capsys, commands, monkeypatch, nobody, name):
    monkeypatch.setenv("PREFECT_API_URL", nobody)
    with temporary_settings({PREFECT_API_URL: nobody}):
        status, line = told(capsys, commands[name])
    assert (status, line.startswith(f"error: no Prefect server answers at {nobody}: start it, or ")) == (1, True)


@pytest.fixture
def guarded():
    """The address of a server that lets nobody in."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(401)

        def do_POST(self):
            self.send_error(401)

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("password", [None, "admin:wrong"])
def test_a_server_that_wants_a_password_is_told_in_one_line(capsys, commands, guarded, password):
    with temporary_settings({PREFECT_API_URL: guarded, PREFECT_API_AUTH_STRING: password}):
        status, line = told(capsys, commands["reap"])
    assert status == 1
    assert ("refuses the password" in line) == (password is not None)
    assert "`export PREFECT_API_AUTH_STRING=user:password`" in line
    assert "wrong" not in line


@pytest.mark.slow
def test_what_is_advised_against_a_server_that_is_gone_works_as_it_is_typed(tmp_path, nobody):
    """Named by the environment, and by the profile that `up` made before the machine went down."""
    home = tmp_path / "prefect"
    home.mkdir()
    with temporary_settings({PREFECT_PROFILES_PATH: home / "profiles.toml"}):
        profile = Profile(name="extract-and-train", settings={"PREFECT_API_URL": nobody})
        save_profiles(ProfilesCollection([profile], active=profile.name))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    environment |= {"PREFECT_HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def typed(words: str) -> str:
        done = subprocess.run(["sh", "-c", words], env=environment, cwd=PROJECT, capture_output=True, text=True)
        return done.stderr.strip().splitlines()[-1]

    named = f"export PREFECT_API_URL={nobody}"
    advice = re.findall("`([^`]*)`", typed(f"{named}; python -m flows.reap"))
    assert advice == ["export PREFECT_API_URL="]
    assert "PREFECT_API_URL is not set" in typed(f"{named}; {advice[0]}; python -m flows.reap")

    advice = re.findall("`([^`]*)`", typed("python -m flows.reap"))
    assert advice == ["python -m deployments up", "python -m deployments down"]
    assert "nothing was up" in typed(advice[1])
    assert "PREFECT_API_URL is not set" in typed("python -m flows.reap")


def test_ctrl_c_while_the_server_stops_ends_it_at_once_without_a_traceback(monkeypatch):
    process = subprocess.Popen(["sleep", "600"], stdin=subprocess.PIPE)

    def wait(*timeout: float) -> int:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "wait", wait)
    prefect_server._stop(process)
    assert process.returncode == -signal.SIGKILL


WAYS = {
    "nothing": (lambda folder: {}, False),
    "an empty variable": (lambda folder: {"PREFECT_API_URL": ""}, False),
    "another variable": (lambda folder: {"PREFECT_LOGGING_LEVEL": "INFO"}, False),
    "the server's address": (lambda folder: {"PREFECT_API_URL": "http://127.0.0.1:4200/api"}, True),
    "a database": (lambda folder: {"PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:///x.db"}, True),
    "a profile": (lambda folder: {"PREFECT_PROFILE": "cloud"}, True),
    "profiles": (lambda folder: written(folder / "home" / "profiles.toml", 'active = "local"'), True),
    "dotenv": (lambda folder: written(folder / ".env", "PREFECT_API_URL=http://127.0.0.1:4200/api"), True),
    "prefect.toml": (lambda folder: written(folder / "prefect.toml", '[api]\nurl = "http://127.0.0.1:4200/api"'), True),
    "pyproject.toml": (lambda folder: written(folder / "pyproject.toml", "[tool.prefect.api]\nurl = 'http://x'"), True),
    "a project": (lambda folder: written(folder / "pyproject.toml", (PROJECT / "pyproject.toml").read_text()), False),
}


def written(path: Path, text: str) -> dict[str, str]:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return {}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_may_name_a_server_or_its_database_is_seen_before_prefect_is_imported(way, tmp_path, monkeypatch):
    make, may_be = WAYS[way]
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    for name, value in ({"PREFECT_HOME": str(tmp_path / "home")} | make(tmp_path)).items():
        monkeypatch.setenv(name, value)
    assert prefect_server.may_be_configured() is may_be


def test_a_server_that_was_started_too_early_leaves_when_the_settings_name_another(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(prefect_server, "may_be_configured", lambda: False)
    start = prefect_server._started
    monkeypatch.setattr(prefect_server, "_started", lambda *given: (started.append(start(*given)), started[-1])[1])
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert prefect_server.start_server(Store(tmp_path / "store", "")) is None
    assert [own.process.poll() is not None for own in started] == [True]
