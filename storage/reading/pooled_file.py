"""The file of pooled vectors: digests, averages and maxima as little-endian arrays, and a sealed record at the end.

docs/store.md has the layout.
"""

import json
import mmap
import os
import struct
import zlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from storage.layout import FORMAT_VERSION
from storage.records import sealed, unsealed

STATISTICS = ("average", "maximum")
ALIGNMENT = 64  # bytes; where an array begins
TAIL = struct.Struct("<Q")  # the size of the record
CHECKED_BYTES = 2**24  # a checksum covers so many bytes of an array, so that threads share the work
CHECK_THREADS = 2


@dataclass(frozen=True)
class Layout:
    """Where the arrays of a file lie. is_pooled: the space pools already, so that both statistics are one array."""

    rows: int
    channels: int
    is_pooled: bool

    def __post_init__(self):
        if not all(type(number) is int and 0 <= number < 2**40 for number in (self.rows, self.channels)):
            raise ValueError(f"it claims {self.rows!r} rows of {self.channels!r} channels")

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays in the file, in order."""
        return ("digests", "average") if self.is_pooled else ("digests", *STATISTICS)

    def row_bytes(self, name: str) -> int:
        return 32 if name == "digests" else 4 * self.channels

    def start(self, name: str) -> int:
        """The place of an array's first byte."""
        before = self.names[: self.names.index(name)]
        return sum(-(-self.rows * self.row_bytes(other) // ALIGNMENT) * ALIGNMENT for other in before)

    @property
    def end(self) -> int:
        """The place behind the last array, where the record begins."""
        return self.start(self.names[-1]) + self.rows * self.row_bytes(self.names[-1])


class PooledVectors:
    """The vectors of the images of a version, memory-mapped. They stay readable when the file is removed.

    digests: (n, 32) uint8, ascending. average, maximum: (n, channels) float32, read-only; row i belongs to digest i.
    """

    def __init__(self, layout: Layout, memory: mmap.mmap):
        self._memory = memory
        count, channels = layout.rows, layout.channels

        def array(name: str, dtype: str, width: int) -> np.ndarray:
            return np.frombuffer(memory, dtype, count * width, layout.start(name)).reshape(count, width)

        self.digests = array("digests", "u1", 32)
        self.average = array("average", "<f4", channels)
        self.maximum = self.average if layout.is_pooled else array("maximum", "<f4", channels)

    def __len__(self) -> int:
        return len(self.digests)

    def find(self, digests: np.ndarray) -> np.ndarray:
        """(m,) int64: the row of each of (m, 32) uint8 digests. Raises KeyError if one has no row."""
        known, wanted = _as_keys(self.digests), _as_keys(digests)
        rows = np.searchsorted(known, wanted)
        if len(wanted) and (not len(known) or not np.array_equal(known[np.minimum(rows, len(known) - 1)], wanted)):
            raise KeyError("an image has no pooled vectors")
        return rows

    def release(self) -> None:
        """Give back the memory of pages that were read. They are read again when needed."""
        self._memory.madvise(mmap.MADV_DONTNEED)


def _as_keys(digests: np.ndarray) -> np.ndarray:
    """(n,) S32, which sort as the (n, 32) bytes do."""
    return np.ascontiguousarray(digests).reshape(-1).view("S32")


def open_pooled(path: Path, check: Collection[str] = STATISTICS) -> PooledVectors:
    """Open a file and verify its record, its digests and the arrays in `check`. Raises OSError, and ValueError if damaged."""
    with open(path, "rb") as file:
        layout, checksums = _record(file.fileno())
        names = [name for name in layout.names if name == "digests" or name in check or layout.is_pooled]
        for name in names:
            if _checksums(file.fileno(), layout, name) != checksums[name]:
                raise ValueError(f"the checksum of its {name} does not match")
        memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    return PooledVectors(layout, memory)


def _record(file: int) -> tuple[Layout, dict[str, list[int]]]:
    """The layout and the checksums in an open file. Raises ValueError."""
    try:
        size = os.fstat(file).st_size
        (length,) = TAIL.unpack(os.pread(file, TAIL.size, max(0, size - TAIL.size)))
        start = size - TAIL.size - length
        record = unsealed(json.loads(os.pread(file, min(length, size), max(0, start))))
        layout = Layout(**record["layout"])
        if record["format_version"] != FORMAT_VERSION or start != layout.end:
            raise ValueError("its record does not fit its size")
        return layout, {name: record["checksums"][name] for name in layout.names}
    except (struct.error, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"its record is not readable: {error}") from error


def _checksums(file: int, layout: Layout, name: str) -> list[int]:
    """The CRC-32 of each CHECKED_BYTES of an array."""
    start, size = layout.start(name), layout.rows * layout.row_bytes(name)

    def of(place: int) -> int:
        return zlib.crc32(os.pread(file, min(CHECKED_BYTES, start + size - place), place))

    with ThreadPoolExecutor(CHECK_THREADS) as threads:
        return list(threads.map(of, range(start, start + size, CHECKED_BYTES)))


def write_rows(file: int, layout: Layout, name: str, rows: np.ndarray, values: np.ndarray) -> None:
    """Write `values` (n, …) of an array at `rows` (n,), ascending. Neighbouring rows take one call. Thread-safe."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    for first, piece in zip(rows[np.r_[0, cuts]] if len(rows) else (), np.split(values, cuts), strict=False):
        _write_all(
            file, np.ascontiguousarray(piece).tobytes(), layout.start(name) + int(first) * layout.row_bytes(name)
        )


def _write_all(file: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, place)
        view, place = view[written:], place + written


def finish(file: int, path: str, layout: Layout) -> None:
    """Append the record with the checksums of what was written to `file`, which lies at `path`."""
    with open(path, "rb") as written:
        checksums = {name: _checksums(written.fileno(), layout, name) for name in layout.names}
    record = {"format_version": FORMAT_VERSION, "layout": asdict(layout), "checksums": checksums}
    data = json.dumps(sealed(record)).encode()
    _write_all(file, data + TAIL.pack(len(data)), layout.end)
