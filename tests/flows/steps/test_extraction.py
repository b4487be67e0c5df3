"""How the chunks are shared out: all of them, in task runs worth their while, and to an end at about the same time."""

import math
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.steps import extraction
from flows.steps.extraction import SECONDS_A_TASK_RUN, chunks_a_run, extract_chunks
from tests import toy
from workers.devices import Placement, Slot
from workers.jobs.records import ChunkResult, PlanRecord


@given(st.integers(1, 5000), st.integers(1, 16), st.floats(1e-4, 1000))
def test_task_runs_take_ten_seconds_and_less_at_the_end_alone(chunks, slots, seconds):
    enough = math.ceil(SECONDS_A_TASK_RUN / max(seconds, 1e-3))
    remaining, sizes = chunks, []
    while remaining:
        sizes.append(chunks_a_run(remaining, slots, seconds))
        assert 1 <= sizes[-1] <= min(enough, math.ceil(remaining / slots))
        remaining -= sizes[-1]
    assert sizes == sorted(sizes, reverse=True)
    whole = [size for size in sizes if size == enough]
    assert len(whole) * enough >= chunks - 2 * slots * (enough + 1)


@given(st.integers(200, 5000), st.integers(2, 8))
def test_children_end_within_three_seconds_of_each_other(chunks, slots):
    seconds = 0.5
    busy, remaining = [0.0] * slots, chunks
    while remaining:
        first = busy.index(min(busy))
        count = chunks_a_run(remaining, slots, seconds)
        busy[first] += count * seconds * (1 + 0.1 * first)  # some are slower
        remaining -= count
    assert max(busy) - min(busy) <= 3 * (1 + 0.1 * slots)


def test_before_the_rate_is_known_a_task_run_is_one_chunk():
    assert chunks_a_run(1000, 2, None) == 1


@pytest.fixture
def events(monkeypatch) -> list[str]:
    """What an extraction does, in its order: a task run ends when the extraction waits for it, the oldest first."""
    found: list[str] = []
    runs: list[tuple[int, Future]] = []

    def submit(plan, start, *_) -> Future:
        found.append(f"submit {start}")
        runs.append((start, Future()))
        return runs[-1][1]

    class Finished:
        put = staticmethod(lambda future: None)

        def get(self) -> Future:
            start, future = runs.pop(0)
            found.append(f"end {start}")
            future.set_result([ChunkResult("", 0, 1, "", 1, 0, {}, 0.0, 9.0, {}, 0.0, "toy", None)])
            return future

    monkeypatch.setattr(extraction, "kept", lambda *_: SimpleNamespace(submit=submit))
    monkeypatch.setattr(extraction, "Queue", Finished)
    monkeypatch.setattr(extraction, "ProgressArtifact", lambda *_: SimpleNamespace(update=lambda share: None))
    return found


@pytest.mark.parametrize(
    ("chunks", "cores", "expected"),
    [
        (3, 2, ["submit 0", "submit 1", "submit 2", "end 0", "end 1", "free", "end 2", "free"]),
        (1, 2, ["submit 0", "free", "end 0", "free"]),
        (2, 1, ["submit 0", "submit 1", "end 0", "end 1", "free"]),
        (0, 2, []),
    ],
)
def test_a_core_is_free_when_the_last_chunks_leave_one(events, monkeypatch, tmp_path, chunks, cores, expected):
    monkeypatch.setattr(extraction, "available_cores", lambda: cores)
    space = toy.space(tmp_path / "images", tmp_path / "store")
    plan = PlanRecord("", space, None, chunks, 1, "parquet", chunks, True, {})
    slots = (Slot(None, 1),) * min(cores, max(1, chunks))
    progress = SimpleNamespace(say=lambda *_: None, meter=lambda *_: SimpleNamespace(update=lambda *_: None))
    extract_chunks(plan, Placement(slots, ""), "toy", None, progress, on_free_core=lambda: events.append("free"))
    assert events == expected
