"""Segments: immutable pieces of a version's tables, bounded in size and named by the sha256 of their bytes."""

import hashlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.backend.atomic import put
from storage.backend.bounded_read import read_whole
from storage.errors import StoreDamaged
from storage.layout import Store
from storage.records import sha256
from storage.schemas import CORRECTIONS_SCHEMA, FILES_SCHEMA, ROWS_SCHEMA
from storage.shards.parquet_pages import check_pages, column_places

SCHEMAS = {"files": FILES_SCHEMA, "rows": ROWS_SCHEMA, "corrections": CORRECTIONS_SCHEMA}
ROWS_PER_SEGMENT = 8192  # the maximum for rows, the average for files (see _cut)
MOST_ROWS, MOST_BYTES = 65_536, 2**28  # limits of an unpacked segment: one that claims more is refused
LARGEST = 4  # a segment of files has at most LARGEST * ROWS_PER_SEGMENT rows


def write_files(store: Store, files: pa.Table, known: tuple[str, ...] = ()) -> list[str]:
    """Write a table of FILES_SCHEMA, sorted by path, as segments. Returns their names in order.

    known: segments that are durable already. The content decides the cuts, so a change moves only the cuts beside it:
    every other segment keeps its bytes and its name.
    """
    keys = [_hash32(path) for path in files["path"].to_pylist()]
    return [_write(store, "files", files.slice(start, stop - start), known) for start, stop in _cut(keys)]


def write_rows(store: Store, rows: pa.Table, known: tuple[str, ...] = ()) -> list[str]:
    """Write a table of ROWS_SCHEMA, sorted by (digest, view), as segments sorted likewise. Returns their names.

    known: segments of an earlier version. One stays while all its rows are in the table. The other rows go to new
    segments, together with those of known segments that are not full. So new images cost new segments, not a rewrite
    of all.
    """
    keys = _keys(rows)
    is_left = np.ones(len(keys), bool)
    kept: list[str] = []
    small: list[tuple[str, np.ndarray]] = []
    for name in known:
        segment = read_segments(store, "rows", (name,))
        at = np.minimum(np.searchsorted(keys, _keys(segment)), max(len(keys) - 1, 0))
        if not len(keys) or not rows.take(pa.array(at)).equals(segment):
            continue
        is_left[at] = False
        if segment.num_rows < ROWS_PER_SEGMENT:
            small.append((name, at))
        else:
            kept.append(name)
    if not is_left.any():
        return [*kept, *(name for name, _ in small)]
    for _, at in small:
        is_left[at] = True
    left = rows.filter(pa.array(is_left))
    starts = range(0, left.num_rows, ROWS_PER_SEGMENT)
    return kept + [_write(store, "rows", left.slice(start, ROWS_PER_SEGMENT), known) for start in starts]


def write_corrections(store: Store, corrections: pa.Table, known: tuple[str, ...] = ()) -> list[str]:
    """Write a table of CORRECTIONS_SCHEMA, sorted by path, as segments. Returns their names in order; none for no rows."""
    starts = range(0, corrections.num_rows, ROWS_PER_SEGMENT)
    return [_write(store, "corrections", corrections.slice(start, ROWS_PER_SEGMENT), known) for start in starts]


def _keys(rows: pa.Table) -> np.ndarray:
    """(n,) S34: (digest, view) of each row as bytes that sort like the pair."""
    keys = np.empty((rows.num_rows, 34), np.uint8)
    column = rows["digest"].combine_chunks()
    digests = np.frombuffer(column.buffers()[1], np.uint8, 32 * len(column), 32 * column.offset)
    keys[:, :32] = digests.reshape(-1, 32)
    keys[:, 32:] = rows["view"].to_numpy().astype(">u2").reshape(-1, 1).view(np.uint8)
    return keys.reshape(-1).view("S34")


def _hash32(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "big")


def _cut(keys: list[int]) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of each segment: cut after each row whose key is a multiple of ROWS_PER_SEGMENT.

    Cuts a longer piece at the maximum size.
    """
    ends = np.flatnonzero(np.array(keys, np.int64) % ROWS_PER_SEGMENT == 0) + 1
    starts = [0, *ends.tolist()]
    for start, stop in zip(starts, [*starts[1:], len(keys)], strict=True):
        for piece in range(start, stop, LARGEST * ROWS_PER_SEGMENT):
            yield piece, min(stop, piece + LARGEST * ROWS_PER_SEGMENT)


def _write(store: Store, kind: str, table: pa.Table, known: tuple[str, ...]) -> str:
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.combine_chunks(),
        sink,
        use_dictionary=["class", "split", "status", "reason", "shard"],
        compression="zstd",
        write_page_checksum=True,
    )
    data = sink.getvalue().to_pybytes()
    name = f"{kind}-{sha256(data)}.parquet"
    if name not in known:
        put(store.segments / name, data, store.aside)
    return name


def read_segments(store: Store, kind: str, names: tuple[str, ...]) -> pa.Table:
    """Read segments and concatenate their rows. Raises StoreDamaged if one is missing, damaged or invalid."""
    schema = SCHEMAS[kind]
    tables = []
    for name in names:
        try:
            data = read_whole(store.segment(name))
        except FileNotFoundError:
            raise StoreDamaged(f"segment {name} is missing from {store.segments}; {store.way_out}") from None
        except ValueError as error:
            raise StoreDamaged(f"segment {name} is damaged ({error}); {store.way_out}") from None
        if sha256(data) != name.rpartition("-")[2].removesuffix(".parquet"):
            raise StoreDamaged(f"segment {name} is damaged (its sha256 does not match its name); {store.way_out}")
        try:
            tables.append(_unpacked(data, schema))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise StoreDamaged(f"segment {name} is damaged ({error}); {store.way_out}") from error
    return pa.concat_tables(tables).combine_chunks() if tables else schema.empty_table()


def _unpacked(data: bytes, schema: pa.Schema) -> pa.Table:
    """Decode a segment's bytes. Raises ValueError if the footer does not fit any segment of a store."""
    file = pq.ParquetFile(pa.BufferReader(data))
    groups = (file.metadata.row_group(index) for index in range(file.num_row_groups))
    rows = [file.metadata.num_rows, *(group.num_rows for group in groups)]
    if not all(0 <= number <= MOST_ROWS for number in rows):
        raise ValueError(f"it claims {rows[0]} rows in groups of {rows[1:]}")
    left = MOST_BYTES
    for places in column_places(io.BytesIO(data)):
        for place in places:
            left -= check_pages(io.BytesIO(data), place, left, MOST_ROWS)
    if not file.schema_arrow.equals(schema):
        raise ValueError(f"unexpected columns or types: {', '.join(file.schema_arrow.names)}")
    table = file.read(use_threads=False)
    for column in table.columns:
        if pa.types.is_string(column.type):
            column.validate(full=True)  # the reader does not check that text is UTF-8
    return table


def rows_of(shard: str, found: Sequence[tuple[bytes, int, int]]) -> pa.Table:
    """Build a table of ROWS_SCHEMA from rows of one shard, each as (digest, view, row within the shard)."""
    digests, views, numbers = zip(*found, strict=True) if found else ((), (), ())
    columns = (digests, views, [shard] * len(found), numbers)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, ROWS_SCHEMA, strict=True)], schema=ROWS_SCHEMA)


def in_order(rows: pa.Table) -> pa.Table:
    """Sort rows by (digest, view)."""
    return rows.take(pc.sort_indices(rows, [("digest", "ascending"), ("view", "ascending")])).combine_chunks()
