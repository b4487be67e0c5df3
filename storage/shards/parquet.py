"""Shards as Parquet: features as binary blobs, in row groups that are read singly and checked page by page."""

import math
import struct
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.backend.paths import Place, is_local
from storage.layout import ROWS_PER_GROUP
from storage.shards.parquet_pages import check_pages, column_places

TAIL = 8  # bytes at the end of a file: the footer's length and the magic number
MAGIC = b"PAR1"
PAGE_BYTES = 1024  # an upper bound for a row's digest, view and share of the page headers


def encode(
    digests: Sequence[bytes], features: np.ndarray, metadata: Mapping[str, str], views: np.ndarray | None = None
) -> bytes:
    """Encode a shard: n digests of 32 bytes, features (n, ...), views (n,) uint16. Equal arguments give equal bytes.

    views: None means that all rows are plain.
    """
    views = np.zeros(len(digests), np.uint16) if views is None else views
    row_bytes = math.prod(features.shape[1:]) * features.itemsize
    schema = _schema(row_bytes).with_metadata(dict(metadata))
    flat = pa.py_buffer(np.ascontiguousarray(features).reshape(-1).view(np.uint8))
    rows = pa.FixedSizeBinaryArray.from_buffers(pa.binary(row_bytes), len(digests), [None, flat])
    table = pa.Table.from_arrays([pa.array(digests, pa.binary(32)), pa.array(views), rows], schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=ROWS_PER_GROUP,
        use_dictionary=False,
        compression="zstd",
        compression_level=1,
        write_statistics=["digest"],
        write_page_checksum=True,
        write_batch_size=16,
    )
    return sink.getvalue().to_pybytes()


def _schema(row_bytes: int) -> pa.Schema:
    return pa.schema(
        [
            pa.field("digest", pa.binary(32), nullable=False),
            pa.field("view", pa.uint16(), nullable=False),
            pa.field("features", pa.binary(row_bytes), nullable=False),
        ]
    )


def footer_size(tail: bytes) -> int:
    """The size in bytes of the footer with its length and magic number, read from the last TAIL bytes of a file.

    Raises ValueError if the file is not a Parquet file.
    """
    if tail[4:] != MAGIC:
        raise ValueError("not a Parquet file")
    return struct.unpack("<I", tail[:4])[0] + TAIL


class ParquetRows:
    """The rows of a shard in Parquet. Raises ValueError and pyarrow's errors if the file is not a shard."""

    keeps_file = True

    def __init__(self, path: Place):
        # pre_buffer is off, because with it each open file keeps its last column chunk: 150 MB in a training, and 43 MB
        # of growth (measured).
        self._path, self._object = path, None if is_local(path) else path.open("rb")
        self._places: list[list[tuple[int, int]]] = []
        self._file = pq.ParquetFile(self._object or path, page_checksum_verification=True, pre_buffer=False)
        schema = self._file.schema_arrow
        self.metadata = {key.decode(): value.decode() for key, value in schema.metadata.items()}
        self.num_rows: int = self._file.metadata.num_rows
        self.row_bytes: int = schema.field("features").type.byte_width
        self._check(schema)

    def _check(self, schema: pa.Schema) -> None:
        """Raise ValueError, before any row is read, if the footer claims what no shard of the store has."""
        if not schema.equals(_schema(self.row_bytes)):
            raise ValueError(f"unexpected columns or types: {', '.join(schema.names)}")
        facts = self._file.metadata
        groups = -(-self.num_rows // ROWS_PER_GROUP)
        if facts.num_row_groups not in (groups, max(1, groups)):  # pyarrow may write one empty group for no rows
            raise ValueError(f"it has {self.num_rows} rows in {facts.num_row_groups} row groups")
        for index in range(facts.num_row_groups):
            group, rows = facts.row_group(index), min(ROWS_PER_GROUP, self.num_rows - index * ROWS_PER_GROUP)
            if group.num_rows != rows:
                raise ValueError(f"its row group {index} has {group.num_rows} rows")

    def digests(self) -> list[bytes]:
        groups = range(self._file.num_row_groups)
        return [digest for group in groups for digest in self._read(group, "digest").to_pylist()]

    def views(self) -> np.ndarray:
        groups = [self._read(group, "view").to_numpy() for group in range(self._file.num_row_groups)]
        return np.concatenate([np.empty(0, np.uint16), *groups])

    def group(self, index: int) -> np.ndarray:
        """The features of a row group as bytes: (rows, row_bytes) uint8, read-only."""
        column = self._read(index, "features")
        array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        size, start = len(array) * self.row_bytes, array.offset * self.row_bytes
        return np.frombuffer(array.buffers()[1], np.uint8, size, start).reshape(len(array), self.row_bytes)

    def _read(self, group: int, name: str) -> pa.ChunkedArray:
        rows = self._file.metadata.row_group(group).num_rows
        # The buffer of an open object keeps what is read here, so that pyarrow need not fetch it again.
        with nullcontext(self._object) if self._object else self._path.open("rb") as file:
            self._places = self._places or column_places(file)
            place = self._places[group][self._file.schema_arrow.get_field_index(name)]
            check_pages(file, place, (rows + 1) * (self.row_bytes + PAGE_BYTES), rows)
        return self._file.read_row_group(group, columns=[name], use_threads=False)[name]
