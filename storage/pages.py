"""The pages of a Parquet file, held against what they may unpack to before anything is unpacked.

pyarrow makes room for whatever a page says of itself, outside of what page checksums cover: 64 KB of a file for 2 GB.
A page's header is a struct of Thrift's compact protocol, parquet.thrift has its fields.
"""

import os
from typing import IO

import pyarrow.parquet as pq

# Kinds of Thrift's compact protocol that a page header has.
TRUE, FALSE, I32, I64, BINARY, STRUCT = 1, 2, 5, 6, 8, 12
# Where a header has its numbers.
UNPACKED, PACKED = (2,), (3,)
NUM_VALUES = ((5, 1), (7, 1), (8, 1))  # of a page of data, of a dictionary, of data in its second version
DEEPEST = 2  # statistics within a kind within a header
LARGEST_FIELD = 100
LARGEST_VARINT = 10  # bytes of 64 bits


def check_pages(file: IO[bytes], column: pq.ColumnChunkMetaData, most_bytes: int, most_values: int) -> int:
    """How many bytes the pages of a column unpack to, headers included.

    Raises ValueError where that is more than `most_bytes`, where a page has more than `most_values`, and where what
    lies in the column's place in the file is not a row of pages.
    """
    data, at, unpacked = _chunk(file, column), 0, 0
    while at < len(data):
        try:
            header, end = _struct(data, at)
        except IndexError:
            raise ValueError("the header of a page has no end") from None
        sizes = [header.get(field, -1) for field in (UNPACKED, PACKED)]
        values = [header[field] for field in NUM_VALUES if field in header]
        limits = [most_bytes - unpacked, len(data) - end] + [most_values] * len(values)
        if not all(0 <= number <= limit for number, limit in zip([*sizes, *values], limits, strict=True)):
            raise ValueError(f"a page says that it has {values} values in {sizes} bytes")
        unpacked += end - at + sizes[0]
        at = end + sizes[1]
    return unpacked


def _chunk(file: IO[bytes], column: pq.ColumnChunkMetaData) -> bytes:
    """The bytes of a column as they lie in the file."""
    start, size = column.data_page_offset, column.total_compressed_size
    if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
        start = column.dictionary_page_offset
    if not 0 <= start <= start + size <= file.seek(0, os.SEEK_END):
        raise ValueError(f"a column says that it has {size} bytes from {start} on")
    file.seek(start)
    return file.read(size)


def _struct(data: bytes, at: int, place: tuple[int, ...] = ()) -> tuple[dict[tuple[int, ...], int], int]:
    """The whole numbers below a struct by the fields that lead there, and its end. Raises ValueError, IndexError."""
    found: dict[tuple[int, ...], int] = {}
    field = 0
    while data[at]:
        step, kind, at = data[at] >> 4, data[at] & 15, at + 1
        if step:
            field += step
        else:
            field, at = _number(data, at)
        if not 0 < field <= LARGEST_FIELD:  # of 16 bits: a large one would be a small one for others
            raise ValueError(f"a page header has a field {field}")
        if kind == I32:
            found[*place, field], at = _number(data, at)
        elif kind == I64:
            _, at = _varint(data, at)
        elif kind == BINARY:
            size, at = _varint(data, at)
            at += size
        elif kind == STRUCT and len(place) < DEEPEST:
            below, at = _struct(data, at, (*place, field))
            found |= below
        elif kind not in (TRUE, FALSE):
            raise ValueError(f"a page header has a field of kind {kind}")
    return found, at + 1


def _number(data: bytes, at: int) -> tuple[int, int]:
    number, at = _varint(data, at)
    if number >> 32:
        raise ValueError(f"a page header has a number of {number.bit_length()} bits")
    return number >> 1 ^ -(number & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for index in range(LARGEST_VARINT):
        byte = data[at + index]
        number |= (byte & 127) << 7 * index
        if byte < 128:
            return number, at + index + 1
    raise ValueError("a page header has a number without end")
