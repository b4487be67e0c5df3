"""Segments: bounded pieces of the tables, of which a small change writes few."""

import hashlib

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.layout import Store
from storage.manifest import segments
from storage.manifest.segments import in_order, read_segments, write_rows
from storage.schemas import ROWS_SCHEMA


@given(st.lists(st.integers(0, 2**32 - 1), max_size=60), st.integers(1, 10))
def test_segments_are_the_table_in_pieces(keys, rows_per_segment):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "ROWS_PER_SEGMENT", rows_per_segment)
        pieces = list(segments._cut(keys))
    assert [index for start, stop in pieces for index in range(start, stop)] == list(range(len(keys)))
    assert all(start < stop <= start + segments.LARGEST * rows_per_segment for start, stop in pieces)


@given(st.lists(st.integers(0, 2**32 - 1), unique=True, min_size=1, max_size=60), st.data())
def test_one_row_more_changes_at_most_the_segment_it_falls_into(keys, data):
    extra = data.draw(st.integers(0, len(keys)))
    more = [*keys[:extra], 2**32 + data.draw(st.integers(0, 7)), *keys[extra:]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "ROWS_PER_SEGMENT", 4)
        patch.setattr(segments, "LARGEST", 16)  # none is cut for its size alone
        before = {tuple(keys[slice(*piece)]) for piece in segments._cut(keys)}
        after = {tuple(more[slice(*piece)]) for piece in segments._cut(more)}
    assert len(before - after) <= 1
    assert len(after - before) <= 2


def rows_of(numbers: dict[int, int]) -> pa.Table:
    """Rows of made-up images: number → the row that it has in its shard."""
    rows = [
        {"digest": hashlib.sha256(b"%d" % number).digest(), "view": number % 2, "shard": "s", "row": row}
        for number, row in numbers.items()
    ]
    return in_order(pa.Table.from_pylist(rows, ROWS_SCHEMA))


@given(st.lists(st.dictionaries(st.integers(0, 40), st.integers(0, 3), max_size=30), min_size=1, max_size=6))
def test_rows_are_read_back_whatever_came_and_went_before(tmp_path_factory, states):
    store = Store(tmp_path_factory.mktemp("store"), "0" * 32)
    names: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "ROWS_PER_SEGMENT", 4)
        for state in states:
            names = write_rows(store, rows_of(state), tuple(names))
            pieces = [read_segments(store, "rows", (name,)) for name in names]
            assert in_order(read_segments(store, "rows", tuple(names))).equals(rows_of(state))
            assert all(0 < piece.num_rows <= 4 and piece.equals(in_order(piece)) for piece in pieces)
            assert sum(piece.num_rows < 4 for piece in pieces) <= 1
            assert write_rows(store, rows_of(state), tuple(names)) == names


@given(st.integers(0, 40), st.integers(1, 12))
def test_new_rows_replace_at_most_the_one_segment_that_is_not_full(tmp_path_factory, before, more):
    store = Store(tmp_path_factory.mktemp("store"), "0" * 32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "ROWS_PER_SEGMENT", 4)
        first = write_rows(store, rows_of(dict.fromkeys(range(before), 0)))
        second = write_rows(store, rows_of(dict.fromkeys(range(before + more), 0)), tuple(first))
    assert len(set(first) - set(second)) <= (before % 4 > 0)
    assert len(second) == -(-(before + more) // 4)
