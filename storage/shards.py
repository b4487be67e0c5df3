"""Shards: immutable Parquet files of feature rows, named by the sha256 of their bytes.

docs/format.md gives the layout and the measurements behind it.
"""

import json
import logging
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.digests import DIGEST
from storage.durable import create, replace
from storage.errors import StoreDamaged
from storage.layout import SHARD_NAME, Store, sha256

logger = logging.getLogger(__name__)

ROWS_PER_GROUP = 128
MAX_ROWS = 65_535  # a row number is a u16 in the sample table
LARGEST_FLOAT16 = 6.0e4
MAGIC = b"PAR1"


@dataclass(frozen=True)
class ShardRef:
    """What a version knows of a shard before opening it."""

    name: str
    size_bytes: int
    num_rows: int
    footer_checksum: str


@dataclass(frozen=True)
class FeatureType:
    """How one feature row is stored: little-endian `dtype` of this `shape`, C order."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


def check_values(features: np.ndarray) -> None:
    """Refuse what the store could not give back: non-finite values, or over 6e4 where float16 is stored."""
    largest = float(np.abs(features).max(initial=0))
    if not np.isfinite(largest):
        raise StoreDamaged("the backbone gave a feature that is not finite; check the weights")
    if features.dtype == np.float16 and largest > LARGEST_FLOAT16:
        raise StoreDamaged(f"a feature of {largest:.0f} does not fit float16; use --dtype float32")


def write_shard(
    store: Store,
    digests: Sequence[bytes],
    features: np.ndarray,
    errors: Mapping[bytes, str],
    metadata: Mapping[str, str],
) -> ShardRef:
    """Write one shard durably; the same arguments always give the same bytes, and so the same name.

    digests: n digests of 32 bytes. features: (n, ...) float16 or float32. errors: digest → code of the
    images that could not be decoded. metadata: how the rows were made (fingerprint, engine, versions).
    Raises StoreDamaged for values that cannot be stored, OSError where the disk refuses.
    """
    check_values(features)
    kind = FeatureType(features.dtype.newbyteorder("<").str, features.shape[1:])
    schema = pa.schema(
        [
            pa.field("digest", DIGEST, nullable=False),
            pa.field("view", pa.uint16(), nullable=False),
            pa.field("features", pa.binary(kind.row_bytes), nullable=False),
        ],
        metadata={
            **metadata,
            "dtype": kind.dtype,
            "shape": json.dumps(kind.shape),
            "errors": json.dumps(sorted((digest.hex(), code) for digest, code in errors.items())),
        },
    )
    blob = np.ascontiguousarray(features, dtype=kind.dtype)
    rows = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(kind.row_bytes), len(digests), [None, pa.py_buffer(blob.reshape(-1).view(np.uint8))]
    )
    views = pa.array(np.zeros(len(digests), np.uint16))
    table = pa.Table.from_arrays([pa.array(digests, DIGEST), views, rows], schema=schema)
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
    data = sink.getvalue().to_pybytes()
    ref = ShardRef(f"{sha256(data)}.parquet", len(data), len(digests), sha256(footer_of(data)))
    path = store.shard(ref.name)
    if not create(path, data, store.aside) and path.read_bytes() != data:
        replace(path, data, store.aside)  # what lies there under this name is damaged
    return ref


def footer_of(data: bytes) -> bytes:
    """The Parquet footer: its bytes, their length and the magic number, at the end of the file."""
    length = struct.unpack("<I", data[-8:-4])[0]
    if data[-4:] != MAGIC or length + 8 > len(data):
        raise StoreDamaged("not a Parquet file")
    return data[-length - 8 :]


class Shard:
    """An open shard whose footer is the one that was committed; its pages are checked as they are read.

    Raises StoreDamaged where the file is missing or is not what `ref` says.
    """

    def __init__(self, store: Store, ref: ShardRef):
        path = store.shard(ref.name)
        try:
            with open(path, "rb") as file:
                _check_footer(file, ref)
            self._parquet = pq.ParquetFile(path, page_checksum_verification=True)
        except FileNotFoundError:
            raise StoreDamaged(f"shard {ref.name} is missing; run again: only its images are extracted") from None
        except (pa.ArrowException, struct.error) as error:
            raise StoreDamaged(f"shard {ref.name} is damaged ({error}); delete it and run again") from error
        self.ref = ref
        try:
            self.metadata = {k.decode(): v.decode() for k, v in self._parquet.schema_arrow.metadata.items()}
            self.kind = FeatureType(self.metadata["dtype"], tuple(json.loads(self.metadata["shape"])))
            row_bytes = self._parquet.schema_arrow.field("features").type.byte_width
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise StoreDamaged(f"shard {ref.name} is a Parquet file, but none of ours") from error
        if self._parquet.metadata.num_rows != ref.num_rows or row_bytes != self.kind.row_bytes:
            raise StoreDamaged(f"shard {ref.name} does not hold the rows that its version lists")

    def digests(self) -> list[bytes]:
        """The digest of each row, in order."""
        groups = range(self._parquet.num_row_groups)
        return [digest for group in groups for digest in self._read(group, "digest").to_pylist()]

    def errors(self) -> dict[bytes, str]:
        return {bytes.fromhex(digest): code for digest, code in json.loads(self.metadata["errors"])}

    def read_group(self, group: int) -> np.ndarray:
        """The features of one row group: (rows, *shape), read-only, checked page by page."""
        column = self._read(group, "features")
        array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        start = array.offset * self.kind.row_bytes
        flat = np.frombuffer(array.buffers()[1], np.uint8, len(array) * self.kind.row_bytes, start)
        return flat.view(self.kind.dtype).reshape(len(array), *self.kind.shape)

    def _read(self, group: int, name: str) -> pa.ChunkedArray:
        try:
            return self._parquet.read_row_group(group, columns=[name], use_threads=False)[name]
        except (pa.ArrowException, OSError) as error:
            raise StoreDamaged(
                f"shard {self.ref.name} is damaged ({error}); delete it and run again: only its images are extracted"
            ) from error

    def read(self) -> np.ndarray:
        """All features of the shard: (rows, *shape)."""
        groups = [self.read_group(group) for group in range(self._parquet.num_row_groups)]
        return np.concatenate(groups) if groups else np.empty((0, *self.kind.shape), self.kind.dtype)


def _check_footer(file, ref: ShardRef) -> None:
    size = file.seek(0, 2)
    if size != ref.size_bytes:
        raise StoreDamaged(
            f"shard {ref.name} has {size} bytes, its version says {ref.size_bytes}; "
            "run again: only its images are extracted"
        )
    file.seek(-8, 2)
    length = struct.unpack("<I", file.read(4))[0]
    file.seek(-min(size, length + 8), 2)
    if sha256(file.read()) != ref.footer_checksum:
        raise StoreDamaged(f"the footer of shard {ref.name} is damaged; delete it and run again")


def is_present(store: Store, ref: ShardRef) -> bool:
    """The shard is there with its size: the check that every run makes of every shard."""
    try:
        return store.shard(ref.name).stat().st_size == ref.size_bytes
    except OSError:
        return False


def uncommitted_shards(store: Store, committed: Mapping[str, ShardRef]) -> list[ShardRef]:
    """Intact shards in the store that the version does not list: the work of a run that died.

    Their bytes are hashed: a file that is not what its name says is left alone.
    """
    found = []
    for path in sorted(store.shards.glob("*/*.parquet")):
        if path.name in committed or not SHARD_NAME.fullmatch(path.name) or path != store.shard(path.name):
            continue
        try:
            data = path.read_bytes()
            if f"{sha256(data)}.parquet" == path.name:
                num_rows = pq.ParquetFile(pa.BufferReader(data)).metadata.num_rows
                found.append(ShardRef(path.name, len(data), num_rows, sha256(footer_of(data))))
        except (pa.ArrowException, OSError) as error:
            logger.warning("%s is left alone: %s", path, error)
    return found
