"""Names that a folder may hold and that programs trip over, and trees that are deeper than a path is long."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests import toy

# What it is → the bytes. Each can name a folder, and a file with a suffix behind it.
NAMES = {
    "latin-1": b"caf\xe9",
    "a lone byte": b"\xff",
    "its escape, literally": rb"\xff",
    "an encoded surrogate": b"\xed\xa0\x80",
    "UTF-8 cut short": b"\xf0\x9f\x90",
    "composed": "caf\u00e9".encode(),
    "decomposed": "cafe\u0301".encode(),
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467".encode(),
    "right to left": "\u05e9\u05dc\u05d5\u05dd\u202e".encode(),
    "zero width": "a\u200bb".encode(),
    "byte order mark": "\ufeffa".encode(),
    "one space": b" ",
    "spaces around": b" a ",
    "tab": b"a\tb",
    "newline": b"a\nb",
    "newline at the end": b"a\n",
    "carriage return": b"a\rb",
    "line separator": "a\u2028b".encode(),
    "control characters": bytes([*range(1, 32), 127]),
    "single quote": b"a'b",
    "double quote": b'a"b',
    "backtick": b"`a`",
    "backslash": b"a\\b",
    "backslash at the end": b"a\\",
    "percent": b"%41%s%",
    "dollar": b"$HOME",
    "star": b"*",
    "question mark": b"?",
    "bracket": b"[a",
    "braces": b"{images}",
    "minus": b"-rf",
    "colon": b"c:",
    "URI": b"file:",
    "comma": b"a,b",
    "table": b"a|b",
    "tag": b"<b>&amp;",
    "hash": b"#a",
    "assignment": b"class=a",
    "tilde": b"~",
    "dots inside": b"a..b",
    "upper case": b"CAT",
    "lower case": b"cat",
    "not a number": b"nan",
    "null": b"null",
    "true": b"true",
    "number": b"1",
    "number with a zero": b"01",
    "an image": b"x.jpg",
    "as long as a name may be": b"n" * 251,
    "as long, and not UTF-8": b"\xfe" * 251,
}

# Folders in folders, of every name that is text and of every one that is not.
TEXT = b"/".join(name for name in NAMES.values() if name == name.decode(errors="ignore").encode())
BYTES = b"/".join(name for name in NAMES.values() if name != name.decode(errors="ignore").encode())


def file(root: Path, path: bytes, seed: int) -> bytes:
    """A small picture at a path of any bytes; returns that path. Skips where the file system will not have it."""
    full = os.path.join(os.fsencode(root), path)
    try:
        toy.picture(Path(os.fsdecode(full)), seed)
    except OSError as error:
        pytest.skip(f"this file system refuses the name {path!r}: {error.strerror}")
    return path


def need_distinct(folder: Path, *names: bytes) -> None:
    """Skip where the file system takes two of these names for one."""
    probe = os.path.join(os.fsencode(folder), b"probe")
    try:
        for name in names:
            os.makedirs(os.path.join(probe, name), exist_ok=True)
        kept = set(os.listdir(probe))
    except OSError as error:
        pytest.skip(f"this file system refuses one of {names!r}: {error.strerror}")
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    if kept != set(names):
        pytest.skip(f"this file system keeps {names!r} as {sorted(kept)!r}")


@contextmanager
def room_for_depth(folder: Path) -> Iterator[Path]:
    """A new folder that is removed in the end however deep it is: shutil.rmtree recurses."""
    root = folder / "deep"
    root.mkdir()
    try:
        yield root
    finally:
        subprocess.run(["rm", "-rf", "--", *folder.glob("deep*")], check=True)


def nest(root: Path, names: list[bytes], content: bytes, file_name: bytes = b"1.png") -> bytes:
    """Folders one in the other, longer than PATH_MAX if asked for, and a file in the last; returns the file's path."""
    above = os.open(root, os.O_RDONLY)
    for name in names:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=above)
        below = os.open(name, os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    file = os.open(file_name, os.O_WRONLY | os.O_CREAT, dir_fd=above)
    os.write(file, content)
    os.close(file)
    os.close(above)
    return b"/".join([*names, file_name])
