"""Format names, numbers and tables as plain text."""

import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime

# A parameter in a message: `limit`, `layout=splits`, `images='my photos'`. White space or punctuation surrounds it, so
# that a path with backquotes is not mistaken for one. A value with other characters is quoted for a shell.
PARAMETER = re.compile(r"""(?<![^\s(])`([a-z][a-z0-9_]*)(?:=((?:'[^']*'|"'"|[^\s`'"])*))?`(?![^\s,.;:)])""")


def as_flags(message: str) -> str:
    """A message for a user of a command line: `` `layout=splits` `` becomes `--layout splits`.

    Messages name parameters as Python and Prefect do. Only command lines call this function.
    """
    return PARAMETER.sub(_flag, message)


def _flag(found: re.Match[str]) -> str:
    name, value = found.groups()
    return f"--{name.replace('_', '-')}{'' if value is None else f' {value}'}"


def visible(name: bytes | str) -> str:
    """Escape a name to one printable line.

    Bytes that are not UTF-8 become \\xff, unprintable characters \\n or \\u202e.
    Backslashes of a path (bytes) are doubled, so that different paths never look the same. Those of a text are not,
    because class names have such escapes already (folder_layout.text).
    """
    text = name.replace(b"\\", b"\\\\").decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    return "".join(char if char.isprintable() else _escaped(ord(char)) for char in text)


def one_line(message: str) -> str:
    """Join a message to one line. White space within a line stays, so that a path in it can be typed as shown."""
    return visible(" ".join(line.strip() for line in message.split("\n") if line.strip()))


def quoted(*names: str) -> str:
    """Names in quotes, so that white space in them shows: `'cats', ' dogs', 'a\\tb'`."""
    return ", ".join(f"'{visible(name)}'" for name in names)


def first_few(names: Sequence[str], at_most: int = 5) -> str:
    """The first `at_most` names in quotes, and the number of further ones."""
    more = f" and {len(names) - at_most:,} more" if len(names) > at_most else ""
    return quoted(*names[:at_most]) + more


def folded(name: str) -> str:
    """A key that is equal for names that look alike: `Cats`, `cats ` and their other Unicode forms."""
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
    """An ISO 8601 time in a shorter form. Text that is not a time stays as it is."""
    try:
        moment = datetime.fromisoformat(created)
    except (TypeError, ValueError):
        return visible(str(created))
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC" if moment.tzname() == "UTC" else "%Y-%m-%d %H:%M:%S %z").strip()


def date_of(time_ns: int) -> str:
    """Nanoseconds since the Unix epoch as text, in UTC."""
    return date(datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat())


def width(text: str) -> int:
    """The width of a text in terminal columns."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def columns(rows: Sequence[Sequence[str]], right: str = "") -> list[str]:
    """Format rows as lines of aligned columns, two spaces apart. A column with an `r` in `right` is right-aligned."""
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
    """The lines, each but empty ones indented by two spaces."""
    return [f"  {line}" if line else line for line in lines]


def ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers as ranges: `1 to 4, 6, 8`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)
