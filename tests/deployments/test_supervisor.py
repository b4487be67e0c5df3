"""What dies is started again; what is ended leaves nothing; the plugin leaves a Prefect alone that it does not know."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from prefect.client.orchestration._deployments.client import DeploymentAsyncClient
from prefect.plugins import HookContext

from deployments.plugin import setup_environment
from deployments.supervisor import MARK, Service, end_marked, keep, marked

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
# Ignores to be asked, and starts a child of its own in another session that outlives it.
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    "time.sleep(600)",
]


def until(holds, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert holds()


def test_a_killed_service_is_started_again_until_it_is_over(tmp_path):
    service, is_over, told = Service("sleeper", SLEEP, dict(os.environ), tmp_path / "log"), threading.Event(), []
    service.start()
    keeper = threading.Thread(target=keep, args=([service], is_over, lambda *what: told.append(what)))
    keeper.start()
    first = service.process.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: service.process.pid != first and service.is_alive())
    is_over.set()
    keeper.join(60)
    assert not service.is_alive()
    assert told == [(service, -signal.SIGKILL)]


def test_a_service_that_keeps_dying_is_started_ever_less_often(tmp_path):
    service = Service("broken", [sys.executable, "-c", "exit(3)"], dict(os.environ), tmp_path / "log")
    service.start()
    pauses = []
    for _ in range(8):
        service.process.wait()
        service.start_again()
        pauses.append(service.pause)
    service.process.wait()
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]


def test_what_is_marked_is_ended_whoever_started_it_and_however_it_resists(tmp_path):
    environment = os.environ | {MARK: str(tmp_path)}
    with subprocess.Popen(SLEEP, env=os.environ | {MARK: f"{tmp_path}-other"}) as other:
        process = subprocess.Popen(STUBBORN, env=environment)
        until(lambda: len(marked(tmp_path)) == 2)
        assert end_marked(tmp_path, seconds=1) == 2
        assert marked(tmp_path) == []
        assert process.wait() == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


@pytest.fixture
def context():
    return HookContext(prefect_version="9.9.9", api_url=None, logger_factory=logging.getLogger)


def test_the_plugin_changes_the_look_up_once(monkeypatch, context):
    stock = DeploymentAsyncClient.read_deployment_by_name
    monkeypatch.setattr(DeploymentAsyncClient, "read_deployment_by_name", stock)
    setup_environment(ctx=context)
    changed = DeploymentAsyncClient.read_deployment_by_name
    setup_environment(ctx=context)
    assert DeploymentAsyncClient.read_deployment_by_name is changed


def test_the_plugin_leaves_a_prefect_that_it_does_not_know(monkeypatch, context, caplog):
    monkeypatch.delattr(DeploymentAsyncClient, "read_deployment_by_name")
    setup_environment(ctx=context)
    assert not hasattr(DeploymentAsyncClient, "read_deployment_by_name")
    assert "use `prefect deployment run extract-and-train/extract-and-train`" in caplog.text
