"""Runs whose processes died are told from those that live, and set to Crashed on a real server."""

import shutil
import signal
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.client.schemas import FlowRun
from prefect.settings import Settings
from prefect.states import Cancelling, Pending, Running

from flows.reap import death
from flows.reap import main as reap_main
from tasks.processes import Process
from tests import toy
from tests.flows.conftest import PROJECT, TINY
from tests.flows.in_process import call
from tests.flows.prefect_server import shared_server
from tests.flows.started import ask, start, trained_logs, wait_until

NOW = datetime.now(UTC)
OWN = Process.own()
GONE = replace(OWN, started=OWN.started - 1)
ELSEWHERE = replace(OWN, host="elsewhere.example")


def flow_run(state, process: Process | None) -> FlowRun:
    return FlowRun(flow_id=uuid.uuid4(), name="photos", state=state, labels=process.labels() if process else {})


@pytest.mark.parametrize("state", [Running(), Cancelling()])
def test_a_run_is_dead_where_its_process_is_known_to_be_gone(state):
    assert "is gone" in death(flow_run(state, GONE), NOW, 300, is_all=False)
    for process in (OWN, ELSEWHERE, None):
        assert death(flow_run(state, process), NOW, 300, is_all=False) is None
    assert death(flow_run(state, OWN), NOW, 300, is_all=True) is None
    for process in (ELSEWHERE, None):
        assert "its process is unknown" in death(flow_run(state, process), NOW, 300, is_all=True)


def test_a_run_that_has_not_begun_is_dead_after_a_while():
    for seconds, is_dead in ((299, False), (301, True)):
        run = flow_run(Pending(timestamp=NOW - timedelta(seconds=seconds)), None)
        assert (death(run, NOW, 300, is_all=False) is not None) == is_dead
        assert death(run, NOW, 300, is_all=True)


def test_a_server_started_here_keeps_its_leases_in_files(monkeypatch, tmp_path):
    monkeypatch.chdir(PROJECT)
    assert Settings().server.concurrency.lease_storage == "prefect.server.concurrency.lease_storage.filesystem"
    monkeypatch.chdir(tmp_path)
    assert Settings().server.concurrency.lease_storage == "prefect.server.concurrency.lease_storage.memory"


@pytest.fixture
def alone(without_server, tmp_path):
    """The environment of a server that no other test uses: each counts the dead runs of the whole server."""
    home = Path(without_server["PREFECT_HOME"])
    home.mkdir()
    (template,) = (tmp_path / "machine").rglob("*.db")
    shutil.copyfile(template, home / "prefect.db")
    with shared_server(home) as address:
        yield without_server | {"PREFECT_API_URL": address}


@pytest.mark.slow
def test_runs_left_running_by_killed_processes_are_set_to_crashed_and_living_ones_are_not(alone, tmp_path):
    server, environment = alone["PREFECT_API_URL"], alone
    images, other = (toy.pictures(tmp_path / name, per_class=20) for name in ("images", "other"))
    arguments = (*TINY, "--epochs", "5000", "--patience", "5000")
    dead = start(environment, "--images", images, "--store", tmp_path / "store", *arguments)
    wait_until(lambda: trained_logs(tmp_path / "store"), dead)
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    living = start(environment, "--images", other, "--store", tmp_path / "other-store", *arguments)
    try:
        wait_until(lambda: trained_logs(tmp_path / "other-store"), living)
        assert states(server, "flow_runs", images) == ["RUNNING"]

        done = reap(environment)
        assert (done["flow_runs"], done["task_runs"]) == (1, 1)
        assert states(server, "flow_runs", images) == ["CRASHED"]
        assert set(states(server, "task_runs", images)) == {"COMPLETED", "CRASHED"}
        assert states(server, "flow_runs", other) == ["RUNNING"]
        assert "CRASHED" not in states(server, "task_runs", other)
        assert (reap(environment)["flow_runs"], reap(environment)["task_runs"]) == (0, 0)
    finally:
        living.send_signal(signal.SIGTERM)
        living.communicate(timeout=120)
    assert "RUNNING" not in states(server, "flow_runs", other)


def states(server: str, what: str, images) -> list[str]:
    (run,) = ask(server, "flow_runs", name=str(images))
    return [found["state_type"] for found in ask(server, what, id=run["id"])]


def reap(environment: dict[str, str]) -> dict:
    done = call(reap_main, environment)
    assert done.status == 0, done.stderr
    return done.record
