"""A real Prefect server for the session, and the command line as a user calls it."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage.source.scan_table import RACY_NS
from tests import toy

PROJECT = Path(__file__).parents[2]
TINY = ("--weights", "random", "--image-size", "32", "--epochs", "2", "--chunk-size", "16")


@dataclass(frozen=True)
class Done:
    """What a finished command left: its exit status, its JSON record, and what it said."""

    status: int
    record: dict | None
    stdout: str
    stderr: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def server(prefect_home: Path):
    """The address of a full server (with its scheduler), stopped at the end of the session."""
    port = free_port()
    environment = {**os.environ, "PREFECT_HOME": str(prefect_home)}
    with open(prefect_home / "server.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            cwd=prefect_home,
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}/api"
    try:
        wait_for_health(process, address, prefect_home / "server.log")
        yield address
    finally:
        end(process, 20)


def end(process: subprocess.Popen, seconds: float) -> None:
    """Ask a process to leave, and make it after so many seconds."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for_health(process: subprocess.Popen, address: str, log: Path) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"the Prefect server did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def environment(server: str, prefect_home: Path) -> dict[str, str]:
    return {**os.environ, "PREFECT_HOME": str(prefect_home), "PREFECT_API_URL": server}


@pytest.fixture(scope="session")
def prefect(environment: dict[str, str]):
    """Call Python with arguments in the project's folder, where a deployment finds the flow."""

    def call(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


@pytest.fixture
def without_server(server: str, prefect_home: Path, tmp_path: Path) -> dict[str, str]:
    """An environment that names no server, with a database that has been migrated already."""
    home = tmp_path / "prefect"
    home.mkdir()
    with (
        closing(sqlite3.connect(prefect_home / "prefect.db")) as source,
        closing(sqlite3.connect(home / "prefect.db")) as copy,
    ):
        source.backup(copy)
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return {**kept, "PREFECT_HOME": str(home)}


@pytest.fixture(scope="session")
def pipeline(environment: dict[str, str], tmp_path_factory):
    """Call `python flows/pipeline.py` with arguments; from another folder, as a user might."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def call(*arguments: str | Path) -> Done:
        done = subprocess.run(
            [sys.executable, PROJECT / "flows" / "pipeline.py", *map(str, arguments)],
            env=environment,
            cwd=elsewhere,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return finished(done.returncode, done.stdout, done.stderr)

    return call


def finished(status: int, stdout: str, stderr: str) -> Done:
    lines = stdout.strip().splitlines()
    return Done(status, json.loads(lines[-1]) if lines else None, stdout, stderr)


def run_alone(home: Path, *arguments: str | Path) -> Done:
    """A run that has nothing to start: a server that cannot be reached, modules that cannot be imported. Touching either would show."""
    code = f"""
import sys
sys.modules["prefect"] = sys.modules["tensorflow"] = sys.modules["keras"] = None
sys.argv = ["pipeline.py", *{[str(argument) for argument in arguments]}]
import runpy
runpy.run_path({str(PROJECT / "flows" / "pipeline.py")!r}, run_name="__main__")
"""
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(home)}
    call = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=PROJECT)
    return finished(call.returncode, call.stdout, call.stderr)


@pytest.fixture(scope="session")
def first_run(pipeline, tmp_path_factory):
    """A folder of 60 pictures and the store of one whole run over it; for reading only."""
    root = tmp_path_factory.mktemp("first-run")
    images, store = toy.pictures(root / "images", per_class=30), root / "store"
    time.sleep(2 * RACY_NS / 1e9)  # younger pictures would not be in the digest cache
    done = pipeline("--images", images, "--store", store, *TINY)
    assert done.status == 0, done.stderr
    return images, store, done


@pytest.fixture
def again(first_run, tmp_path: Path):
    """A copy of the first run's pictures and store, to be changed."""
    images, store, _ = first_run
    shutil.copytree(images, tmp_path / "images")
    shutil.copytree(store, tmp_path / "store")
    return tmp_path / "images", tmp_path / "store"
