"""The inline runner does what the local one does, except for what needs another process."""

import threading
from pathlib import Path

import pytest
from prefect.states import Failed

from flows.console.exit_status import exit_status
from storage.errors import InputError, StoreBusy, StoreDamaged
from storage.manifest.space import create_space
from storage.planning.chunks import pack
from tasks.caching import can_help
from tests import hostile, toy
from vision.errors import WeightsError
from workers.children.watchdog import Limits
from workers.devices import Slot
from workers.errors import PoolClosed
from workers.jobs.records import ChunkResult, ChunksJob
from workers.runners import inline, local
from workers.runners.base import Runner
from workers.runners.inline import InlineRunner
from workers.runners.isolation import Isolation
from workers.runners.local import LocalRunner
from workers.runners.running import runner, running

SLOT = Slot(None, 1)


@pytest.fixture
def toys(monkeypatch):
    """The toy engine, in this process and in children."""
    monkeypatch.setattr("vision.engines.load_engine", lambda *given: toy.ToyEngine())
    monkeypatch.setattr(local, "CHILD", hostile.CHILD)


def job_on(images: Path, store: Path) -> ChunksJob:
    space, planned = toy.space(images, store), toy.plan(images, store)
    create_space(space.store, toy.SPEC.record())
    return ChunksJob(space, pack(planned.todo), 0, planned.num_chunks, 8, "parquet", 1, "toy")


def extracted(runner: Runner, job: ChunksJob) -> tuple[list[ChunkResult], list[dict]]:
    heard: list[dict] = []
    try:
        with runner.lease() as lease:
            return Isolation(lease, job, heard.append, Limits(60.0)).run(), heard
    finally:
        runner.close()


def test_both_runners_give_the_same_shards_in_the_same_order_and_tell_the_same(images, tmp_path, toys):
    (images / "cats" / "bad.png").write_bytes(b"no image")
    here, heard_here = extracted(InlineRunner((SLOT,), tmp_path / "logs"), job_on(images, tmp_path / "one"))
    there, heard_there = extracted(LocalRunner((SLOT,), tmp_path / "logs"), job_on(images, tmp_path / "other"))
    for one, other in zip(here, there, strict=True):
        assert (one.shard, one.footer_checksum) == (other.shard, other.footer_checksum)
        assert (one.images, one.rows, one.quarantined) == (other.images, other.rows, other.quarantined)
    assert heard_here == heard_there
    assert sum(result.quarantined for result in here) == 1


@pytest.mark.parametrize(
    ("error", "status", "is_tried_again"),
    [
        (StoreDamaged("words"), 1, False),
        (InputError("words"), 2, False),
        (StoreBusy("words"), 5, False),
        (WeightsError("words"), 2, False),
        (OSError(5, "words"), 1, True),
        (OSError(28, "words"), 1, False),
        (OSError("words"), 1, True),
        (ValueError("words"), 1, False),
        (Exception("words"), 1, True),
    ],
    ids=repr,
)
def test_an_error_is_itself_with_the_status_and_the_retries_that_it_has_from_a_child(
    error, status, is_tried_again, monkeypatch, tmp_path
):
    def perform(*given):
        raise error

    monkeypatch.setattr(inline, "perform", perform)
    with pytest.raises(type(error)) as caught, InlineRunner((SLOT,), tmp_path).lease() as lease:
        lease.call("head", {}, print)
    assert caught.value is error
    assert exit_status(error) == status
    assert can_help(Failed(data=error, message="failed")) == is_tried_again


def test_a_kind_of_job_that_is_unknown_is_an_error_of_the_program(tmp_path):
    with (
        pytest.raises(ValueError, match="unknown kind of job 'heads'"),
        InlineRunner((SLOT,), tmp_path).lease() as lease,
    ):
        lease.call("heads", {}, print)


def test_a_job_and_what_it_tells_are_json_as_they_are_between_processes(monkeypatch, tmp_path):
    def perform(kind, job, report):
        report({"loss": float("nan"), "shape": (1, 2)})
        return {"job": job}

    monkeypatch.setattr(inline, "perform", perform)
    heard, given = [], {"classes": ("cats", "dogs")}
    with InlineRunner((SLOT,), tmp_path).lease() as lease:
        result = lease.call("head", given, heard.append)
        with pytest.raises(TypeError, match="not JSON serializable"):
            lease.call("head", {"path": tmp_path}, heard.append)
    assert heard == [{"loss": None, "shape": [1, 2]}]
    assert result == {"job": {"classes": ["cats", "dogs"]}}


def test_one_job_runs_at_a_time_whatever_runner_it_is_of(monkeypatch, tmp_path):
    running_now, most, lock = [0], [0], threading.Lock()

    def perform(kind, job, report):
        with lock:
            running_now[0] += 1
            most[0] = max(most[0], running_now[0])
        for _ in range(3):
            report({})
        with lock:
            running_now[0] -= 1
        return {}

    def call(number: int) -> None:
        with InlineRunner((SLOT, SLOT), tmp_path / str(number)).lease() as lease:
            for _ in range(20):
                lease.call("head", {}, lambda _: threading.Event().wait(0.001))

    monkeypatch.setattr(inline, "perform", perform)
    threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1]


def test_the_end_of_a_run_ends_its_job_at_the_next_report_and_starts_no_other(images, store, toys, tmp_path):
    job = job_on(images, store)
    with running(tmp_path):
        mine = runner("inline", (SLOT,), tmp_path)
    assert isinstance(mine, InlineRunner)
    with pytest.raises(PoolClosed), mine.lease():
        pass
    with running(tmp_path):
        mine = runner("inline", (SLOT,), tmp_path)
        heard: list[dict] = []

        def end(record: dict) -> None:
            heard.append(record)
            mine.close()

        with pytest.raises(PoolClosed), mine.lease() as lease:
            lease.call("chunks", job.record(), end)
    assert heard == [{"chunk": 0, "done": 8}]
