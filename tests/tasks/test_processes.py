import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from tasks.processes import Process
from tests.flows.conftest import PROJECT

OWN = """
import json, time
from tasks.processes import Process
print(json.dumps(Process.own().labels()), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_lives_until_it_ends_however_it_ends(how):
    with subprocess.Popen([sys.executable, "-c", OWN], cwd=PROJECT, stdout=subprocess.PIPE, text=True) as started:
        process = Process.of(json.loads(started.stdout.readline()))
        assert process.pid == started.pid
        assert process.is_alive() is True
        started.send_signal(how)
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        assert process.is_alive() is False  # a zombie: its parent has not waited for it yet
    assert process.is_alive() is False


def test_another_process_of_the_same_number_is_another():
    own = Process.own()
    assert own.is_alive() is True
    assert replace(own, started=own.started - 1).is_alive() is False
    assert replace(own, boot="an earlier start of the machine").is_alive() is False


def test_of_another_machine_nothing_is_known():
    assert replace(Process.own(), host="elsewhere.example").is_alive() is None


def test_labels_name_the_process_and_others_name_none():
    own = Process.own()
    assert Process.of({**own.labels(), "prefect.flow.id": "1"}) == own
    for name in own.labels():
        assert Process.of({key: value for key, value in own.labels().items() if key != name}) is None
    assert Process.of({}) is None
    assert Process.of({**own.labels(), "process.pid": "nonsense"}) is None


@pytest.mark.parametrize("pid", [1, 2**22 + 1])
def test_a_process_of_another_user_and_none_at_all(pid):
    process = replace(Process.own(), pid=pid)
    assert process.is_alive() is False  # its start time is not this process's
