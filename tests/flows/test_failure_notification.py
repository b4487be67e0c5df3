"""A run that fails is told to a webhook by a real server, with its reason."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import Queue

import pytest

from deployments import failure_notification
from tests import toy
from tests.flows.conftest import TINY
from tests.flows.in_process import call


@pytest.fixture
def webhook():
    """The address of a webhook, and a queue of what it is called with."""
    calls: Queue = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            calls.put((self.path, message["text"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/secret", calls
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
def test_a_failed_run_calls_the_webhook_once_with_its_reason(environment, pipeline, tmp_path, webhook, monkeypatch):
    address, calls = webhook
    monkeypatch.setenv("NOTIFY_URL", address)
    monkeypatch.setattr("sys.argv", ["failure_notification"])
    for _ in range(2):  # the second replaces what the first made
        made = call(lambda _: failure_notification.main(), environment)
        assert made.status == 0, made.stderr
        assert "secret" not in made.stdout + made.stderr
    good, bad = toy.pictures(tmp_path / "good"), toy.pictures(tmp_path / "bad", classes=("cats",))
    assert pipeline("--images", good, "--store", tmp_path / "store", *TINY).status == 0
    failed = pipeline("--images", bad, "--store", tmp_path / "other", *TINY)
    assert failed.status == 2
    # Runs of other tests fail on the same server meanwhile, and are told too.
    path, told = next(found for found in iter(lambda: calls.get(timeout=120), None) if str(bad) in found[1])
    assert path == "/secret"
    assert re.search(rf"extract-and-train, run {re.escape(str(bad))}[^\n]*: Failed", told)
    assert "training needs at least two classes" in told
    assert not [text for _, text in calls.queue if str(bad) in text or str(good) in text]
