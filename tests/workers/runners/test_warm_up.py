"""Children that start before their run: who gets them, and how they end if nobody does."""

import json
import threading
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli.prefect_server import START_SECONDS
from tests import toy
from tests.workers.runners.test_local import SLOT, eventually, ignore, is_running, pid_of
from workers.children import child
from workers.devices import Placement
from workers.errors import PoolClosed, WorkerDied
from workers.jobs.perform import perform
from workers.jobs.records import LoadJob
from workers.runners.base import Lease, Runner
from workers.runners.running import end_runners, new_runner, runner, running
from workers.runners.warm_up import WarmUp, extraction, placed_early, training


class ToyLease(Lease):
    """A slot whose job is a function of the test."""

    def call(self, kind, job, on_progress, limits=None):
        raise NotImplementedError

    def in_flight(self):
        return {}

    def stop(self):
        self.is_busy = False


def leased(made: Runner) -> list[Lease]:
    """The leases of a caller that takes them all, in the order in which it gets them."""
    found: list[Lease] = []

    def take() -> None:
        with ExitStack() as held:
            for _ in made.leases:
                found.append(held.enter_context(made.lease()))

    threading.Thread(target=take, daemon=True).start()
    return found


def test_a_caller_waits_for_the_first_slot_that_is_ready():
    made = Runner([ToyLease(SLOT), ToyLease(SLOT)])
    ready = {lease: threading.Event() for lease in made.leases}
    made.warm_up(lambda lease: ready[lease].wait())
    found = leased(made)
    assert not found
    first, second = reversed(made.leases)
    ready[first].set()
    assert eventually(lambda: found == [first])
    ready[second].set()
    assert eventually(lambda: found == [first, second])


def test_a_slot_that_cannot_load_is_used_all_the_same():
    made = Runner([ToyLease(SLOT)])

    def load(lease: Lease) -> None:
        raise WorkerDied("the child is gone")

    made.warm_up(load)
    with made.lease() as lease:
        assert lease is made.leases[0]


def test_a_runner_that_closes_while_it_loads_takes_no_job():
    made = Runner([ToyLease(SLOT)])
    closed = threading.Event()
    made.warm_up(lambda lease: closed.wait())
    made.close()
    closed.set()
    with pytest.raises(PoolClosed), made.lease():
        pass


def test_only_slots_that_nobody_holds_are_stopped():
    made = Runner([ToyLease(SLOT) for _ in range(3)])
    stopped = []
    for lease in made.leases:
        lease.stop = lambda lease=lease: stopped.append(lease)
    with made.lease() as held:
        made.stop_idle(1)
        assert len(stopped) == 1
        made.stop_idle(3)
    assert set(stopped) == {*made.leases} - {held}
    with ExitStack() as all_of_them:
        assert {all_of_them.enter_context(made.lease()) for _ in made.leases} == {*made.leases}


@pytest.fixture
def warm(tmp_path: Path) -> WarmUp:
    """Children that try to load an engine that does not exist, so that they are ready soon."""
    space = toy.space(tmp_path / "images", tmp_path / "store")
    return WarmUp((SLOT,), tmp_path / "logs", LoadJob("none", space))


def test_the_run_gets_the_child_that_was_started_early_and_ends_it(warm):
    with warm, running(warm.logs):
        made = runner("local", warm.slots, warm.logs)
        with made.lease() as lease:
            pid = pid_of(lease)
            assert is_running(pid)
        warm.begin()
        assert runner("local", warm.slots, warm.logs) is made
    assert not is_running(pid)
    with pytest.raises(PoolClosed):
        runner("local", warm.slots, warm.logs)


def test_children_that_no_run_used_end_with_the_command(warm):
    with warm:
        (lease,) = runner("local", warm.slots, warm.logs).leases
        assert eventually(lambda: lease._process is not None)
        pid = pid_of(lease)
    assert eventually(lambda: not is_running(pid))


def test_a_run_with_other_slots_ends_the_children_and_starts_its_own(tmp_path):
    early = new_runner("local", (SLOT,), tmp_path)
    own = runner("local", (SLOT, SLOT), tmp_path)
    assert [lease.is_closed for lease in (*early.leases, *own.leases)] == [True, False, False]
    end_runners(tmp_path)


def test_the_placement_of_early_children_is_that_of_the_run(tmp_path, monkeypatch):
    """A new one would find less memory, because of those children."""
    space, placed = toy.space(tmp_path / "images", tmp_path / "store"), Placement((SLOT,) * 3, "one per core")
    monkeypatch.setattr(Runner, "warm_up", lambda self, load: None)
    with extraction("local", placed, 2, space, "mnn") as early:
        assert placed_early(early.logs, "mnn") is placed
        assert placed_early(early.logs, "tensorflow") is None
        assert len(runner("local", placed.at_most(2).slots, early.logs).leases) == 2
    assert placed_early(early.logs, "mnn") is None


@given(st.integers(1, 9), st.integers(0, 9))
def test_there_are_no_more_slots_than_chunks_and_at_least_one(slots, chunks):
    placed = Placement((SLOT,) * slots, "one per core").at_most(chunks)
    assert len(placed.slots) == max(1, min(slots, chunks))
    assert ("per core" in placed.summary) == (len(placed.slots) == slots)


def test_only_children_start_early(tmp_path):
    space = toy.space(tmp_path / "images", tmp_path / "store")
    for warm in (extraction("inline", Placement((SLOT,), ""), 1, space, "mnn"), training("inline", space)):
        with warm, running(warm.logs):
            assert new_runner("local", (SLOT,), warm.logs) is not None


def test_with_several_gpus_no_training_starts_early(tmp_path, monkeypatch):
    """It is open which GPU the training will get, and a child for each would fill their memory for nothing."""
    space = toy.space(tmp_path / "images", tmp_path / "store")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert training("local", space).slots == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [slot.gpu for slot in training("local", space).slots] == ["1"]


def test_the_engine_that_is_loaded_early_is_the_one_of_the_job(tmp_path, monkeypatch):
    space = toy.space(tmp_path / "images", tmp_path / "store")
    loaded = []
    monkeypatch.setattr("vision.engines.load_engine", lambda *arguments: loaded.append(arguments))
    record = json.loads(json.dumps(asdict(extraction("local", Placement((SLOT,), ""), 1, space, "mnn").job)))
    perform("load", record, ignore)
    assert loaded == [("mnn", space.spec, space.weights, SLOT.threads, None, None)]


def test_a_child_waits_longer_for_its_run_than_between_two_jobs():
    """The first start of Prefect may take minutes."""
    assert child.WARM_SECONDS > START_SECONDS > child.IDLE_SECONDS
