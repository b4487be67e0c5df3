import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import storage
from storage.backend.lock import hold
from storage.errors import StoreBusy

HOLDER = """
import sys
from pathlib import Path
from storage.backend.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process(root: Path) -> Iterator[subprocess.Popen]:
    """A process that holds the store until its stdin is closed."""
    project = Path(storage.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)], cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def test_a_free_store_is_held_again_and_again(store):
    for _ in range(3):
        with hold(store):
            assert store.is_dir()


def test_a_second_holder_is_told_who_the_first_is(store):
    with other_process(store) as process, pytest.raises(StoreBusy, match=rf"process {process.pid} since \d{{4}}-"):
        hold(store).__enter__()


def test_the_holder_named_is_the_newest_one(store):
    for _ in range(2):
        with other_process(store) as process, pytest.raises(StoreBusy, match=f"process {process.pid} since"):
            hold(store).__enter__()


def test_one_process_cannot_hold_a_store_twice(store):
    with hold(store), pytest.raises(StoreBusy, match=f"process {os.getpid()} since"):
        hold(store).__enter__()


def test_two_stores_are_held_side_by_side(tmp_path):
    with hold(tmp_path / "one"), hold(tmp_path / "other"):
        assert (tmp_path / "one").is_dir()
        assert (tmp_path / "other").is_dir()


def test_a_killed_holder_holds_nothing(store):
    with other_process(store) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        with hold(store):
            pass


def test_an_error_in_the_block_frees_the_store(store):
    with pytest.raises(ZeroDivisionError), hold(store):
        raise ZeroDivisionError
    with hold(store):
        pass


def test_waiting_lasts_until_the_holder_leaves(store):
    with other_process(store) as process:
        timer = threading.Timer(0.3, process.stdin.close)
        timer.start()
        with hold(store, wait_seconds=60):
            assert process.wait() == 0
        timer.join()


def test_waiting_ends_with_the_time_given(store):
    with other_process(store) as process, pytest.raises(StoreBusy, match=str(process.pid)):
        hold(store, wait_seconds=0.3).__enter__()


@pytest.mark.parametrize("content", ["", "nonsense", "[]", '{"pid": 1}', "null"])
def test_an_unreadable_lock_file_still_locks(store, content):
    with other_process(store):
        (store / "lock").write_text(content)
        with pytest.raises(StoreBusy, match="in use"):
            hold(store).__enter__()
