"""Shards as npz: arrays that numpy alone can read, uncompressed, so that single rows can be read."""

import io
import json
import math
import struct
import tokenize
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from typing import IO

import numpy as np

from storage.backend.paths import Place
from storage.layout import ROWS_PER_GROUP

TAIL = 22  # bytes of the end record of a zip archive without a comment
END = struct.Struct("<4s4H2IH")
LOCAL_HEADER = 30  # bytes before a member's name (APPNOTE 4.3.7)
ZIP64_END = 56 + 20  # bytes of the zip64 end record and its locator, present if an offset needs more than 32 bits


def encode(
    digests: Sequence[bytes], features: np.ndarray, metadata: Mapping[str, str], views: np.ndarray | None = None
) -> bytes:
    """Encode a shard: `digest` (n, 32) uint8, `view` (n,) uint16, `features` (n, ...), `metadata` as JSON text.

    views: None means that all rows are plain. Equal arguments give equal bytes, because numpy writes no times into the
    archive.
    """
    sink = io.BytesIO()
    np.savez(
        sink,
        digest=np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), 32),
        view=np.zeros(len(digests), np.uint16) if views is None else views,
        features=np.ascontiguousarray(features),
        metadata=np.array(json.dumps(dict(metadata), sort_keys=True)),
    )
    return sink.getvalue()


def footer_size(tail: bytes) -> int:
    """The size in bytes of the archive's directory and end record, read from the last TAIL bytes of a file.

    The directory has a checksum of each array. Raises ValueError if the file is not an npz file.
    """
    magic, *_, size, offset, comment = END.unpack(tail)
    if magic != b"PK\5\6" or comment:
        raise ValueError("not an npz file")
    return size + TAIL + (ZIP64_END if offset == 0xFFFFFFFF else 0)


class NpzRows:
    """The rows of a shard in npz. Opening it reads the whole file once and checks each array against its CRC-32.

    Raises ValueError and the errors of zipfile and numpy if the file is not a shard.
    """

    keeps_file = False

    def __init__(self, path: Place):
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            if damaged:
                raise zipfile.BadZipFile(f"the checksum of {damaged} does not match")
            digests, views = _array(archive, "digest"), _array(archive, "view")
            self.metadata: dict[str, str] = dict(json.loads(_array(archive, "metadata").item()))
            with archive.open("features.npy") as member:
                (self.num_rows, *shape), dtype, header_bytes = _header(archive, "features", member)
            start = archive.getinfo("features.npy").header_offset
        self.row_bytes = math.prod(shape) * dtype.itemsize
        if digests.dtype != np.uint8 or digests.shape != (self.num_rows, 32):
            raise ValueError(f"it has digests {digests.shape} for {self.num_rows} rows")
        if views.dtype != np.uint16 or views.shape != (self.num_rows,):
            raise ValueError(f"it has views {views.shape} for {self.num_rows} rows")
        with path.open("rb") as file:
            file.seek(start + LOCAL_HEADER - 4)
            self._start = start + LOCAL_HEADER + sum(struct.unpack("<HH", file.read(4))) + header_bytes
        self._path = path

    def digests(self) -> list[bytes]:
        return [row.tobytes() for row in self._read("digest")]

    def views(self) -> np.ndarray:
        return self._read("view")

    def _read(self, name: str) -> np.ndarray:
        """Read an array again, which was checked on opening. An open shard keeps no array in memory."""
        with self._path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return _array(archive, name)

    def group(self, index: int) -> np.ndarray:
        """The features of a row group as bytes: (rows, row_bytes) uint8."""
        start = index * ROWS_PER_GROUP
        count = max(0, min(ROWS_PER_GROUP, self.num_rows - start))
        with self._path.open("rb") as file:
            file.seek(self._start + start * self.row_bytes)
            flat = np.frombuffer(file.read(count * self.row_bytes), np.uint8)
        return flat.reshape(count, self.row_bytes)


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        shape, dtype, _ = _header(archive, name, member)
        return np.frombuffer(member.read(), dtype).reshape(shape)


def _header(archive: zipfile.ZipFile, name: str, member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, int]:
    """Read shape and dtype of an array and the size of its header in bytes, and check them against the member's size.

    Raises ValueError if the header is unreadable, or the array has objects, Fortran order, compression or another size.
    """
    np.lib.format.read_magic(member)
    try:
        with warnings.catch_warnings(action="ignore"):  # numpy warns of headers that Python 2 wrote
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(member)
    except (SyntaxError, tokenize.TokenError, MemoryError) as error:  # numpy parses the header as Python
        raise ValueError(f"the header of its {name} cannot be read ({error})") from error
    info, start = archive.getinfo(f"{name}.npy"), member.tell()
    if dtype.hasobject or is_fortran or min(shape, default=0) < 0:
        raise ValueError(f"its {name} are {dtype} of shape {shape}")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != start + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"its {name} of shape {shape} have {info.file_size} bytes")
    return shape, dtype, start
