"""How the chunks are shared out: all of them, in task runs worth their while, and to an end at about the same time."""

import math

from hypothesis import given
from hypothesis import strategies as st

from flows.steps.extraction import SECONDS_A_TASK_RUN, chunks_a_run


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
