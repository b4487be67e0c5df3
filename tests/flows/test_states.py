"""What people see of runs that go wrong: the reason stands in the state of the task run and of the flow run."""

import os
import signal
import time
from contextlib import suppress

import pytest

from tests import toy
from tests.flows.conftest import TINY
from tests.flows.started import ask, children_of, start


@pytest.mark.slow
def test_a_chunk_that_fails_says_why_in_its_state_and_so_does_the_run(server, environment, tmp_path):
    images = toy.pictures(tmp_path / "images", per_class=20)
    process = start(environment, "--images", images, "--store", tmp_path / "store", *TINY)
    log = tmp_path / "store" / "cache" / "logs" / "extraction"
    deadline = time.monotonic() + 300
    while process.poll() is None:  # no child lives for long
        assert time.monotonic() < deadline
        for child in children_of(process.pid) if log.exists() else []:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.05)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "error: " in errors
    (run,) = ask(server, "flow_runs", name=str(images))
    failed = [each for each in ask(server, "task_runs", id=run["id"]) if each["state_type"] == "FAILED"]
    assert all(each["name"].startswith("extract_chunk ") for each in failed)
    # The others were ended with the run.
    died = [each for each in failed if "PoolClosed: the run has ended" not in each["state"]["message"]]
    assert died
    for each in (*died, run):
        assert each["state_type"] == "FAILED"
        assert "WorkerDied" in each["state"]["message"]
        assert str(log / "worker-") in each["state"]["message"]
