"""Merge-join two tables sorted by path: one in memory, the other read piece by piece."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator

import pyarrow as pa


def merge_join(table: pa.Table, pieces: Iterable[pa.Table], schema: pa.Schema) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield (rows of `table`, piece) for each non-empty piece, both sides sorted by path.

    A piece comes with the rows of `table` whose paths are after the last path of the previous piece and not after its
    own last path. So a path of both tables is in both sides of one pair. Rows behind the last piece come with an empty
    table of `schema`. Every row of either table comes exactly once, in order.
    """
    paths = table["path"].combine_chunks()
    start = 0
    for piece in pieces:
        if not piece.num_rows:
            continue
        last = piece["path"][-1].as_py()
        stop = bisect_right(range(len(paths)), last, lo=start, key=lambda index: paths[index].as_py())
        yield table.slice(start, stop - start), piece
        start = stop
    if start < len(paths):
        yield table.slice(start), schema.empty_table()
