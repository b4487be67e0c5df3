"""Check the unpacked sizes of a Parquet file's pages before anything is unpacked.

pyarrow allocates the size that a page header claims, and page checksums do not cover the header: a file of 64 KB can
claim 2 GB. pyarrow also aborts the process on some footers when it looks up a column's place. So this module parses
footers and page headers itself. Both are structs in Thrift's compact protocol; parquet.thrift defines their fields.
"""

import os
import struct
from typing import IO, Any

# Type codes of Thrift's compact protocol.
TRUE, FALSE, INT8, INT16, INT32, INT64, DOUBLE, BINARY, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 12
# Fields as (id, kind). A field of the same id and another kind is a different field.
ROW_GROUPS, COLUMNS, COLUMN = (4, LIST), (1, LIST), (3, STRUCT)
SIZE, DATA_AT, DICTIONARY_AT = (7, INT64), (9, INT64), (11, INT64)
UNPACKED, PACKED, NUM_VALUES = (2, INT32), (3, INT32), (1, INT32)
PAGE_KINDS = ((5, STRUCT), (7, STRUCT), (8, STRUCT))  # data page, dictionary page, data page v2
LARGEST_FIELD = 100
LARGEST_VARINT = 10  # bytes of a 64-bit varint
DEEPEST = 12  # levels of nesting; a footer has nine, lists included
TAIL = 8  # bytes at the end of a file: the footer's length and PAR1


def column_places(file: IO[bytes]) -> list[list[tuple[int, int]]]:
    """For each row group, the place (start, size in bytes) of each column in the file.

    Raises ValueError if the footer is invalid or a place lies outside the file.
    """
    file_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, file_bytes - TAIL))
    footer_bytes = struct.unpack("<I", file.read(TAIL)[:4])[0]
    file.seek(max(0, file_bytes - TAIL - footer_bytes))
    try:
        footer, _ = _struct(file.read(min(file_bytes, footer_bytes)), 0)
        groups = [[_place(column[COLUMN]) for column in group[COLUMNS]] for group in footer[ROW_GROUPS]]
    except (LookupError, TypeError):
        raise ValueError("its footer does not locate its columns") from None
    for start, size in (place for group in groups for place in group):
        if not 0 <= start <= start + size <= file_bytes:
            raise ValueError(f"a column claims {size} bytes at offset {start}")
    return groups


def _place(column: dict) -> tuple[int, int]:
    """The place of a column as pyarrow computes it: it starts with the dictionary page if that precedes the data."""
    start, dictionary = column[DATA_AT], column.get(DICTIONARY_AT, 0)
    return dictionary if 0 < dictionary < start else start, column[SIZE]


def check_pages(file: IO[bytes], place: tuple[int, int], most_bytes: int, most_values: int) -> int:
    """The unpacked size in bytes of the pages in a column's place, headers included.

    Raises ValueError if that exceeds `most_bytes`, if a page has more than `most_values` values, or if the place does
    not hold a sequence of pages.
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
            raise ValueError(f"a page claims {values} values in {sizes} bytes")
        unpacked += end - at + sizes[0]
        at = end + sizes[1]
    return unpacked


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[tuple[int, int], Any], int]:
    """Parse a struct. Returns its values by (field, kind) and the offset of its end.

    Raises ValueError if it is invalid, IndexError if the data end within it.
    """
    found: dict[tuple[int, int], Any] = {}
    seen, field = {0}, 0
    while data[at]:
        step, kind, at = data[at] >> 4, data[at] & 15, at + 1
        if step:
            field += step
        else:
            field, at = _number(data, at)
        # Other parsers may read a repeated field, or a field id of more than 16 bits, differently.
        if field in seen or not 0 < field <= LARGEST_FIELD:
            raise ValueError(f"it has a field {field}")
        seen.add(field)
        if kind not in (TRUE, FALSE):
            found[field, kind], at = _value(data, at, kind, depth)
    return found, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """Parse a value of a kind. Returns it and the offset of its end. A binary value is None: nobody needs it."""
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
