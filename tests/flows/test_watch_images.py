"""The watcher as a command and as a flow on a real server, which goes away for a while."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.cli.command import main
from flows.registry import WATCH
from tests import toy
from tests.flows.conftest import PROJECT
from tests.flows.prefect_server import free_port, wait_for_health


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "--images: the folder of images is missing"),
        (["--images", "nowhere"], "nowhere"),
        (["--images", "{images}", "--quiet-seconds", "0"], "--quiet-seconds"),
        (["--images", "{images}"], "PREFECT_API_URL is not set"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(capsys, images, arguments, error):
    with temporary_settings({PREFECT_API_URL: None}):
        status = main(WATCH, [word.format(images=images) for word in arguments])
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert error in captured.err
    assert len(captured.err.splitlines()) == 1


class Server:
    """A Prefect server of this test's own, which can be stopped and started again."""

    def __init__(self, home):
        self.port, self._home = free_port(), home
        self.address = f"http://127.0.0.1:{self.port}/api"
        self.environment = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": self.address}
        self.start()

    def start(self):
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        log = self._home / "server.log"
        with open(log, "ab") as lines:
            self._process = subprocess.Popen(
                command, env=self.environment, cwd=self._home, stdout=lines, stderr=lines, start_new_session=True
            )
        try:
            wait_for_health(self._process, self.address, log)
        except BaseException:
            self.kill()
            raise

    def kill(self):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def announced(address: str) -> list:
    """The resource and the payload of each event that the server knows, oldest first."""
    body = json.dumps({"filter": {"event": {"name": ["images.arrived"]}}, "limit": 50}).encode()
    request = urllib.request.Request(f"{address}/events/filter", body, {"Content-Type": "application/json"})
    with suppress(OSError), urllib.request.urlopen(request, timeout=30) as answer:
        events = json.loads(answer.read())["events"]
        return [[event["resource"]["prefect.resource.id"], event["payload"]] for event in reversed(events)]
    return []


@pytest.mark.slow
def test_what_arrives_while_the_server_is_away_is_announced_once_it_is_back(tmp_path):
    images, home = toy.pictures(tmp_path / "images"), tmp_path / "home"
    home.mkdir()
    server = Server(home)
    arguments = [PROJECT / WATCH.path, "--images", images, "--store", tmp_path / "store", "--poll-seconds", "5"]
    watcher = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=server.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: len(announced(server.address)) == 1, watcher)
        server.kill()
        toy.picture(images / "cats" / "new.png", 9000)
        time.sleep(5)
        server.start()
        until(lambda: len(announced(server.address)) >= 2, watcher)
        first, second = announced(server.address)[:2]
        assert first == [f"images:{images}", {"images": 20, "new": 20, "changed": 0, "gone": 0}]
        assert second == [f"images:{images}", {"images": 21, "new": 1, "changed": 0, "gone": 0}]
    finally:
        watcher.kill()
        watcher.communicate()
        server.kill()


def until(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 900
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
