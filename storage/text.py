"""Names, numbers and tables as plain text for people."""

import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime


def visible(name: bytes | str) -> str:
    """A name on one line, whatever is in it: bytes that are not UTF-8 as \\xff, what cannot be seen as \\n or \\u202e.

    The backslash of a path (bytes) is doubled, so that no two paths look the same. That of a text is
    not: the names of classes have such escapes already (folder_layout.text).
    """
    text = name.replace(b"\\", b"\\\\").decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    return "".join(char if char.isprintable() else _escaped(ord(char)) for char in text)


def one_line(message: str) -> str:
    """A message without line breaks. White space within a line stays: a path in it can still be typed."""
    return visible(" ".join(line.strip() for line in message.split("\n") if line.strip()))


def quoted(*names: str) -> str:
    """Names in quotes, so that white space in them shows: `'cats', ' dogs', 'a\\tb'`."""
    return ", ".join(f"'{visible(name)}'" for name in names)


def some(names: Sequence[str], at_most: int = 5) -> str:
    """The first few names in quotes, and how many more there are."""
    more = f" and {len(names) - at_most:,} more" if len(names) > at_most else ""
    return quoted(*names[:at_most]) + more


def folded(name: str) -> str:
    """What a name is the same under that people take for the same: `Cats`, `cats ` and another Unicode form of it."""
    return unicodedata.normalize("NFC", name.strip().casefold())


def _escaped(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return chr(code).encode("unicode_escape").decode()
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def count(number: int, what: str = "", plural: str = "") -> str:
    """`1 shard`, `10,942 shards`."""
    noun = what if number == 1 or not what else plural or f"{what}s"
    return f"{number:,} {noun}".strip()


def size(size_bytes: float) -> str:
    """Bytes in powers of 1000: `812 bytes`, `26.3 MB`."""
    if size_bytes < 1000:
        return f"{size_bytes:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size_bytes /= 1000
        if size_bytes < 999.95:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1000:,.1f} TB"


def date(created: str) -> str:
    """A time of ISO 8601 in fewer signs; what is none stays as it is."""
    try:
        moment = datetime.fromisoformat(created)
    except (TypeError, ValueError):
        return visible(str(created))
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC" if moment.tzname() == "UTC" else "%Y-%m-%d %H:%M:%S %z").strip()


def date_of(time_ns: int) -> str:
    """Nanoseconds since the epoch as a time."""
    return date(datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat())


def width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def columns(rows: Sequence[Sequence[str]], right: str = "") -> list[str]:
    """Rows as lines with aligned columns two spaces apart; columns with an `r` in `right` align on the right."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for cell, full, side in zip(row, widths, right.ljust(len(row)), strict=True):
            gap = " " * (full - width(cell))
            cells.append(gap + cell if side == "r" else cell + gap)
        lines.append("  ".join(cells).rstrip())
    return lines


def indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" if line else line for line in lines]


def ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers in few words: `1 to 4, 6, 8`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)
