"""Find the pages of a Parquet file and their unpacked sizes, before anything is unpacked.

pyarrow makes room for whatever a page says of itself, outside of what page checksums cover: 64 KB of a file for 2 GB;
and asked where a column lies it ends the process at some footers. Both are structs of Thrift's compact protocol,
and parquet.thrift has their fields.
"""

import os
import struct
from typing import IO, Any

# Kinds of Thrift's compact protocol.
TRUE, FALSE, INT8, INT16, INT32, INT64, DOUBLE, BINARY, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 12
# Fields, with their kinds: of another kind they are others.
ROW_GROUPS, COLUMNS, COLUMN = (4, LIST), (1, LIST), (3, STRUCT)
SIZE, DATA_AT, DICTIONARY_AT = (7, INT64), (9, INT64), (11, INT64)
UNPACKED, PACKED, NUM_VALUES = (2, INT32), (3, INT32), (1, INT32)
PAGE_KINDS = ((5, STRUCT), (7, STRUCT), (8, STRUCT))  # of data, of a dictionary, of data in its second version
LARGEST_FIELD = 100
LARGEST_VARINT = 10  # bytes of 64 bits
DEEPEST = 12  # a footer has nine levels, lists included
TAIL = 8  # bytes at the end of a file: how long its footer is, and PAR1


def column_places(file: IO[bytes]) -> list[list[tuple[int, int]]]:
    """Of each row group the columns' places in the file, (start, bytes). Raises ValueError."""
    file_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, file_bytes - TAIL))
    footer_bytes = struct.unpack("<I", file.read(TAIL)[:4])[0]
    file.seek(max(0, file_bytes - TAIL - footer_bytes))
    try:
        footer, _ = _struct(file.read(min(file_bytes, footer_bytes)), 0)
        groups = [[_place(column[COLUMN]) for column in group[COLUMNS]] for group in footer[ROW_GROUPS]]
    except (LookupError, TypeError):
        raise ValueError("its footer does not say where its columns are") from None
    for start, size in (place for group in groups for place in group):
        if not 0 <= start <= start + size <= file_bytes:
            raise ValueError(f"a column says that it has {size} bytes from {start} on")
    return groups


def _place(column: dict) -> tuple[int, int]:
    """As pyarrow reckons it: the pages begin with that of the dictionary, where there is one before the data."""
    start, dictionary = column[DATA_AT], column.get(DICTIONARY_AT, 0)
    return dictionary if 0 < dictionary < start else start, column[SIZE]


def check_pages(file: IO[bytes], place: tuple[int, int], most_bytes: int, most_values: int) -> int:
    """How many bytes the pages in a column's place unpack to, headers included.

    Raises ValueError where that is more than `most_bytes`, where a page has more than `most_values`, and where what
    lies there is not a row of pages.
    """
    file.seek(place[0])
    data, at, unpacked = file.read(place[1]), 0, 0
    while at < len(data):
        try:
            header, end = _struct(data, at)
        except IndexError:
            raise ValueError("the header of a page has no end") from None
        sizes = [header.get(field, -1) for field in (UNPACKED, PACKED)]
        values = [header[kind].get(NUM_VALUES, -1) for kind in PAGE_KINDS if kind in header]
        limits = [most_bytes - unpacked, len(data) - end] + [most_values] * len(values)
        if not all(0 <= number <= limit for number, limit in zip([*sizes, *values], limits, strict=True)):
            raise ValueError(f"a page says that it has {values} values in {sizes} bytes")
        unpacked += end - at + sizes[0]
        at = end + sizes[1]
    return unpacked


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[tuple[int, int], Any], int]:
    """What a struct has, by field and kind, and where it ends. Raises ValueError, or IndexError at the end of the data."""
    found: dict[tuple[int, int], Any] = {}
    seen, field = {0}, 0
    while data[at]:
        step, kind, at = data[at] >> 4, data[at] & 15, at + 1
        if step:
            field += step
        else:
            field, at = _number(data, at)
        # What comes twice, and a number of more than 16 bits, would be something else to others.
        if field in seen or not 0 < field <= LARGEST_FIELD:
            raise ValueError(f"it has a field {field}")
        seen.add(field)
        if kind not in (TRUE, FALSE):
            found[field, kind], at = _value(data, at, kind, depth)
    return found, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """A value of a kind, None for one that nobody asks for, and where it ends."""
    if kind in (INT16, INT32, INT64):
        return _number(data, at)
    if kind in (TRUE, FALSE, INT8):
        return data[at], at + 1
    if kind == DOUBLE:
        return data[at + 7], at + 8
    if kind == BINARY:
        size, at = _varint(data, at)
        return None, at + size
    if kind == STRUCT and depth < DEEPEST:
        return _struct(data, at, depth + 1)
    if kind != LIST or depth == DEEPEST:
        raise ValueError(f"it has a value of kind {kind}, {depth} levels deep")
    size, of, at = data[at] >> 4, data[at] & 15, at + 1
    if size == 15:
        size, at = _varint(data, at)
    items = []
    for _ in range(size):
        item, at = _value(data, at, of, depth + 1)
        items.append(item)
    return items, at


def _number(data: bytes, at: int) -> tuple[int, int]:
    number, at = _varint(data, at)
    return number >> 1 ^ -(number & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for index in range(LARGEST_VARINT):
        byte = data[at + index]
        number |= (byte & 127) << 7 * index
        if byte < 128:
            return number, at + index + 1
    raise ValueError("it has a number without end")
