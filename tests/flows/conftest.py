"""The command line as a user calls it, a real Prefect server, and the store of a first run, shared by the session."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest

from flows.cli import command as command_line
from flows.registry import PIPELINE
from tests import toy
from tests.flows.in_process import Done, call, finished
from tests.flows.prefect_server import once, shared_server

PROJECT = Path(__file__).parents[2]
TINY = ("--weights", "random", "--image-size", "32", "--head", "mlp", "--epochs", "2", "--chunk-size", "16")


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder that all processes of the session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def prefect_home(shared: Path) -> Path:
    home = shared / "prefect"
    home.mkdir(exist_ok=True)
    return home


@pytest.fixture(scope="session")
def server(prefect_home: Path):
    with shared_server(prefect_home) as address:
        yield address


def end(process: subprocess.Popen, seconds: float) -> None:
    """Ask a process to leave, and make it after so many seconds."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


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
    """An environment that names no server, with the template of a database that has been migrated already."""
    template = tmp_path / "machine/extract-and-train/prefect-server" / f"{version('prefect')}.db"
    template.parent.mkdir(parents=True)
    with closing(sqlite3.connect(prefect_home / "prefect.db")) as source, closing(sqlite3.connect(template)) as copy:
        source.backup(copy)
        for runs in ("task_run", "flow_run"):  # of other tests
            copy.execute(f"DELETE FROM {runs}")
        copy.commit()
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return {**kept, "PREFECT_HOME": str(tmp_path / "prefect"), "XDG_CACHE_HOME": str(tmp_path / "machine")}


@pytest.fixture(scope="session")
def pipeline(environment: dict[str, str]):
    """Call the command in this process, with its jobs in this process too unless `--runner local` says otherwise."""
    return partial(call, partial(command_line.main, PIPELINE), environment, "--runner", "inline")


@pytest.fixture(scope="session")
def command(environment: dict[str, str], tmp_path_factory):
    """Call `python flows/pipeline.py` with arguments; from another folder, as a user might."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(*arguments: str | Path) -> Done:
        done = subprocess.run(
            [sys.executable, PROJECT / "flows" / "pipeline.py", *map(str, arguments)],
            env=environment,
            cwd=elsewhere,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return finished(done.returncode, done.stdout, done.stderr)

    return run


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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=PROJECT)
    return finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def first_run(pipeline, shared: Path):
    """A folder of 60 pictures and the store of one whole run over it; for reading only."""
    root = shared / "first-run"

    def make() -> dict:
        toy.pictures(root / "images", per_class=30)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("storage.source.scan_table.RACY_NS", 0)  # the digest cache takes files as young as these
            return asdict(pipeline("--images", root / "images", "--store", root / "store", *TINY))

    done = Done(**once(root, make))
    assert done.status == 0, done.stderr
    return root / "images", root / "store", done


@pytest.fixture
def again(first_run, tmp_path: Path):
    """A copy of the first run's pictures and store, to be changed."""
    images, store, _ = first_run
    shutil.copytree(images, tmp_path / "images")
    shutil.copytree(store, tmp_path / "store")
    return tmp_path / "images", tmp_path / "store"
