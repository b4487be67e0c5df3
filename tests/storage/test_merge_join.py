"""Side by side: what both have comes at once, and every row of either comes once."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from storage.merge_join import merge_join

SCHEMA = pa.schema([("path", pa.binary())])
paths = st.lists(st.binary(min_size=1, max_size=2), unique=True, max_size=20).map(sorted)


def table(names: list[bytes]) -> pa.Table:
    return pa.table([pa.array(names, pa.binary())], schema=SCHEMA)


@given(paths, paths, st.integers(1, 5))
def test_every_row_comes_once_in_order_and_equal_paths_come_together(mine, others, size):
    pieces = [table(others[start : start + size]) for start in range(0, len(others), size)]
    found = [
        (part["path"].to_pylist(), piece["path"].to_pylist()) for part, piece in merge_join(table(mine), pieces, SCHEMA)
    ]
    assert [path for part, _ in found for path in part] == mine
    assert [path for _, piece in found for path in piece] == others
    assert sum(len(set(part) & set(piece)) for part, piece in found) == len(set(mine) & set(others))
