"""Shards: immutable files of feature rows, Parquet or npz, named by the sha256 of their bytes.

docs/store.md gives the layout and the measurements behind it.
"""

import errno
import json
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import IO, Literal, Protocol

import numpy as np
import pyarrow as pa

from storage.backend.atomic import put
from storage.backend.paths import Place
from storage.errors import BytesDamaged, StoreDamaged
from storage.layout import ROWS_PER_GROUP, Store
from storage.records import sha256
from storage.shards import npz, parquet
from storage.shards.view_ids import MOST_VARIANTS

Format = Literal["parquet", "npz"]


class Rows(Protocol):
    """An open file of rows. parquet.py and npz.py implement it; they also encode the rows and find the footer."""

    metadata: dict[str, str]
    num_rows: int
    row_bytes: int
    keeps_file: bool

    def digests(self) -> list[bytes]: ...

    def views(self) -> np.ndarray: ...

    def group(self, index: int) -> np.ndarray: ...


ENCODINGS: dict[str, ModuleType] = {"parquet": parquet, "npz": npz}
ROWS: dict[str, Callable[[Place], Rows]] = {"parquet": parquet.ParquetRows, "npz": npz.NpzRows}
DAMAGES = (
    pa.ArrowException,
    zipfile.BadZipFile,
    struct.error,
    zlib.error,
    OSError,
    EOFError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    ArithmeticError,
    RuntimeError,
)

MAX_ROWS = 65_535  # a row number is a u16 in the sample table
DTYPES = ("<f2", "<f4")
LARGEST_SHAPE = (4, 65_536)  # dimensions of a feature, and cells along each
AUGMENTATION = "augmentation"  # its key in the metadata of a shard that has variants
CODE = re.compile(r"[a-z_]{1,40}")
LARGEST_FLOAT16 = 6.0e4


@dataclass(frozen=True)
class ShardRef:
    """A version's record of a shard. Raises ValueError if it has more rows than a shard may have.

    Every step that writes, adopts, commits or reads a shard makes a ShardRef, so none exceeds MAX_ROWS.
    """

    name: str
    size_bytes: int
    num_rows: int
    footer_checksum: str

    def __post_init__(self):
        if type(self.num_rows) is not int or not 0 <= self.num_rows <= MAX_ROWS or type(self.size_bytes) is not int:
            raise ValueError(f"shard {self.name} claims {self.num_rows!r} rows in {self.size_bytes!r} bytes")


@dataclass(frozen=True)
class FeatureType:
    """The stored form of one feature row: little-endian `dtype`, `shape`, C order."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """The size of one row in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "FeatureType":
        """Read the type from the metadata of a shard. Raises ValueError if the rows cannot be features."""
        dtype, shape = metadata["dtype"], tuple(json.loads(metadata["shape"]))
        most, longest = LARGEST_SHAPE
        is_shape = len(shape) <= most and all(type(side) is int and 0 < side <= longest for side in shape)
        if dtype not in DTYPES or not is_shape:
            raise ValueError(f"it claims features of type {dtype} and shape {shape}")
        return cls(dtype, shape)


def check_values(features: np.ndarray) -> None:
    """Raise StoreDamaged if a value is not finite, or is a float16 above 6e4."""
    largest = _largest(features)
    if not np.isfinite(largest):
        raise StoreDamaged("the backbone computed a feature that is not finite; check the weights")
    if features.dtype == np.float16 and largest > LARGEST_FLOAT16:
        raise StoreDamaged(f"a feature of {largest:.0f} does not fit float16; use `dtype=float32`")


def _largest(features: np.ndarray) -> float:
    """The largest magnitude; not finite if a value is not. Comparing float16 by its bits is fourteen times as fast."""
    if features.dtype != np.float16 or not features.size:
        return float(np.abs(features).max(initial=0))
    bits = np.ascontiguousarray(features).view(np.uint16) & np.uint16(0x7FFF)
    return float(bits.max(keepdims=True).view(np.float16).item())


def write_shard(
    store: Store,
    digests: Sequence[bytes],
    features: np.ndarray,
    errors: Mapping[bytes, str],
    metadata: Mapping[str, str],
    format: Format = "parquet",
    views: np.ndarray | None = None,
) -> ShardRef:
    """Write one shard durably. Equal arguments give equal bytes and so the same name.

    digests: n digests of 32 bytes. features: (n, ...) float16 or float32. errors: digest → code of images that could not
    be decoded. metadata: how the rows were made (fingerprint, engine, versions); its key `augmentation` is needed for
    variants. views: (n,) uint16, ascending: 0 for a plain row, k for a variant; None if all rows are plain.
    Raises StoreDamaged for values that cannot be stored, ValueError for over MAX_ROWS rows, OSError from the disk.
    """
    if len(digests) > MAX_ROWS:  # before the bytes are made
        raise ValueError(f"a shard has at most {MAX_ROWS} rows, got {len(digests)}")
    check_values(features)
    if views is not None:
        _check_views(views, metadata.get(AUGMENTATION, ""))
    kind = FeatureType(features.dtype.newbyteorder("<").str, features.shape[1:])
    facts = {
        **metadata,
        "dtype": kind.dtype,
        "shape": json.dumps(kind.shape),
        "errors": json.dumps(sorted((digest.hex(), code) for digest, code in errors.items())),
    }
    if views is None or not views.any():
        facts.pop(AUGMENTATION, None)
    data = ENCODINGS[format].encode(digests, features.astype(kind.dtype, copy=False), facts, views)
    ref = ShardRef(f"{sha256(data)}.{format}", len(data), len(digests), sha256(_footer(data, format)))
    put(store.shard(ref.name), data, store.aside)
    return ref


def _check_views(views: np.ndarray, augmentation: str) -> None:
    """Raise ValueError if there are variants but no augmentation, too many of them, or plain rows after variants."""
    if views.any() and not augmentation:
        raise ValueError("it has variants but no augmentation")
    if np.any(views > MOST_VARIANTS) or np.any(views[1:] < views[:-1]):
        raise ValueError("its views are invalid or not sorted")


def _footer(data: bytes, format: str) -> bytes:
    """The end of a shard, which locates all other parts. The footer checksum covers it."""
    encoding = ENCODINGS[format]
    return data[-encoding.footer_size(data[-encoding.TAIL :]) :]


class Shard:
    """An open shard whose footer matches its ShardRef. An npz shard is verified whole, a Parquet shard as it is read.

    Raises StoreDamaged if the file is missing or does not match `ref`.
    """

    def __init__(self, store: Store, ref: ShardRef):
        self.ref = ref
        self._store = store
        path = store.shard(ref.name)
        with self._blaming():
            _check_footer(path, ref)
            self._rows = ROWS[path.suffix[1:]](path)
            self.metadata = self._rows.metadata
            self.kind = FeatureType.of(self.metadata)
        if (self._rows.num_rows, self._rows.row_bytes) != (ref.num_rows, self.kind.row_bytes):
            raise StoreDamaged(f"shard {ref.name} does not have the rows that its version lists; {store.way_out}")

    @property
    def keeps_file(self) -> bool:
        """Whether the open shard holds a file descriptor or a connection."""
        return self._rows.keeps_file

    def digests(self) -> list[bytes]:
        """The digest of each row, in order."""
        with self._blaming():
            return self._rows.digests()

    @property
    def augmentation(self) -> str:
        """The augmentation of its variants; empty if all rows are plain."""
        return self.metadata.get(AUGMENTATION, "")

    def views(self) -> np.ndarray:
        """(n,) uint16, ascending: 0 for a plain row, k for a variant."""
        if not self.augmentation:
            return np.zeros(self.ref.num_rows, np.uint16)
        with self._blaming():
            views = self._rows.views()
            _check_views(views, self.augmentation)
        return views

    def errors(self) -> dict[bytes, str]:
        """Digest → code of each image that could not be used."""
        with self._blaming():
            found = {bytes.fromhex(digest): code for digest, code in json.loads(self.metadata["errors"])}
            if not all(len(digest) == 32 and CODE.fullmatch(code) for digest, code in found.items()):
                raise ValueError("it records an invalid digest or reason")
        return found

    def read_group(self, group: int) -> np.ndarray:
        """The features of one row group: (rows, *shape), read-only. The last group may be shorter."""
        with self._blaming(is_deep=True):
            rows = self._rows.group(group)
            if len(rows) != max(0, min(ROWS_PER_GROUP, self.ref.num_rows - group * ROWS_PER_GROUP)):
                raise ValueError(f"its row group {group} has {len(rows)} rows")
        return rows.reshape(-1).view(self.kind.dtype).reshape(len(rows), *self.kind.shape)

    def read(self) -> np.ndarray:
        """All features of the shard: (rows, *shape)."""
        groups = [self.read_group(group) for group in range(-(-self.ref.num_rows // ROWS_PER_GROUP))]
        return np.concatenate(groups) if groups else np.empty((0, *self.kind.shape), self.kind.dtype)

    @contextmanager
    def _blaming(self, is_deep: bool = False) -> Iterator[None]:
        """Turn read errors into StoreDamaged with the shard's name and the advice. Errors of the machine pass.

        is_deep: only reading the features finds the damage.
        """
        name, way_out = self.ref.name, self._store.way_out
        try:
            yield
        except FileNotFoundError:
            raise StoreDamaged(f"shard {name} is missing; {way_out}") from None
        except DAMAGES as error:
            # EINVAL is no fault of the machine: the file leads to a place before its beginning.
            if getattr(error, "errno", None) not in (None, errno.EINVAL):
                raise
            if is_deep:
                raise BytesDamaged(f"shard {name} is damaged ({error}); {self._store.deep_way_out}") from error
            raise StoreDamaged(f"shard {name} is damaged ({error}); {way_out}") from error


def _check_footer(path: Place, ref: ShardRef) -> None:
    """Raise ValueError if the size or the footer checksum differs from `ref`."""
    format = path.suffix[1:]
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size != ref.size_bytes or size < ENCODINGS[format].TAIL:
            raise ValueError(f"it has {size} bytes, but its version lists {ref.size_bytes}")
        if checksum_of_footer(file, format) != ref.footer_checksum:
            raise ValueError("the checksum of its footer does not match")


def checksum_of_footer(file: IO[bytes], format: str) -> str:
    """The sha256 of the footer of an open shard, as hex digits."""
    encoding, size = ENCODINGS[format], file.seek(0, os.SEEK_END)
    file.seek(-encoding.TAIL, os.SEEK_END)
    file.seek(-min(size, encoding.footer_size(file.read())), os.SEEK_END)
    return sha256(file.read())
