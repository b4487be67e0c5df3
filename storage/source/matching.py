"""Match the rows of a table of labels with files, and explain rows without a match."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations, islice
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.paths import Place
from storage.errors import InputError
from storage.source.labels import Label, two_labels
from storage.text import count, quoted, visible

MOST_FILES = 50_000  # unmatched files kept in memory for the comparison
MOST_ROWS = 1_000  # unmatched rows compared
MOST_ALIKE = 20  # files of one name compared with a row
SUFFIX = re.compile(r"(?<=[^/])\.\w{2,5}$")


class Rows:
    """The rows of a table, matched with files during the walk of the folders.

    If no file has the exact path of a row with backslashes, the backslashes count as slashes.
    """

    def __init__(self, labels: Mapping[bytes, Label], file: Place, root: Place):
        self.labels, self.file, self.root = labels, file, root
        self._slashed = {_slashed(row): row for row in labels if b"\\" in row}
        self._unnamed: list[bytes] = []

    def label(self, prefix: bytes, name: bytes) -> Label | None:
        """The label of a file; None if no row names it."""
        path = prefix + name
        found = self.labels.get(path) or self.labels.get(self._slashed.get(path, b""))
        if found is None and len(self._unnamed) < MOST_FILES:
            self._unnamed.append(path)
        return found

    def matched(self, files: pa.Table, is_whole: bool) -> tuple[pa.Table, str]:
        """The files that rows name, and a message on the other rows; empty if every row names a file.

        is_whole: whether every folder could be read. Raises InputError if every folder could be read and has files, but
        no row names one. Raises it too if rows with and without backslashes give one file two labels. A folder without
        any file passes, because it may be an unmounted share: the plan knows what was there.
        """
        table, root = visible(str(self.file)), visible(str(self.root))
        there = set(files["path"].to_pylist())
        twice = [path for path, row in self._slashed.items() if {row, path} <= there and path not in self.labels]
        if twice:
            files = files.filter(pc.invert(pc.is_in(files["path"], pa.array(twice, pa.binary())))).combine_chunks()
        by_slash = {row for path, row in self._slashed.items() if path in there and row not in there}
        for row in by_slash:
            one = self.labels.get(_slashed(row))
            if one is not None and one != self.labels[row]:
                raise two_labels(self.file, _slashed(row), one, self.labels[row])
        missing = sorted(self.labels.keys() - there - by_slash)
        said = []
        if by_slash:
            said.append(f"read backslashes as slashes in {count(len(by_slash), 'path')} of {table}")
        if missing:
            guess = guessed(missing, self._unnamed)
            if len(missing) == len(self.labels) and is_whole and self._unnamed:
                raise InputError(f"`labels`: no row of {table} matches a file in {root}: {guess}")
            said.append(
                f"no file in {root} matches {len(missing):,} of {count(len(self.labels), 'row')} in {table}: {guess}"
            )
        return files, "; ".join(said)


def _slashed(row: bytes) -> bytes:
    return os.path.normpath(row.replace(b"\\", b"/"))


# A possible difference between a row and the file it means → a function that removes the difference.
DIFFERENCES: dict[str, Callable[[str], str]] = {
    "backslashes for slashes": lambda path: path.replace("\\", "/"),
    "a slash in front": lambda path: path.lstrip("/"),
    "white space": lambda path: "/".join(part.strip() for part in path.split("/")),
    "URL escapes": unquote,
    "another Unicode form": lambda path: unicodedata.normalize("NFC", path),
    "upper and lower case": str.casefold,
    "the suffix": lambda path: SUFFIX.sub("", path),
}


def guessed(rows: Iterable[bytes], files: Iterable[bytes]) -> str:
    """Describe the most frequent difference between rows and the files they seem to mean, with an example."""
    by_key: dict[str, list[str]] = {}
    for file in map(os.fsdecode, files):
        for key in _keys(file):
            by_key.setdefault(key, []).append(file)
    found: Counter[str] = Counter()
    examples: dict[str, tuple[str, str]] = {}
    names = [os.fsdecode(row) for row in islice(rows, MOST_ROWS)]
    for row in names:
        near = [file for key in _keys(row) for file in by_key.get(key, ())[:MOST_ALIKE]]
        differing = sorted((len(causes), causes, file) for file in near if (causes := difference(row, file)))
        if differing:
            cause = "; ".join(differing[0][1])
            found[cause] += 1
            examples.setdefault(cause, (row, differing[0][2]))
    if not by_key:
        return "there are no other files"
    if not found:
        return f"no file has a similar name, for example to the row {quoted(names[0])}"
    ((cause, _),) = found.most_common(1)
    row, file = examples[cause]
    if unicodedata.normalize("NFC", row) == unicodedata.normalize("NFC", file):
        return f"rows and files differ in {cause}, for example the row {row!a} and the file {file!a}"
    return f"rows and files differ in {cause}, for example the row {quoted(row)} and the file {quoted(file)}"


def _keys(path: str) -> set[str]:
    """Keys that a row shares with the file it may mean: the normalized last name, with and without a suffix."""
    for equal in list(DIFFERENCES.values())[:-1]:
        path = equal(path)
    name = path.rpartition("/")[2]
    return {name, SUFFIX.sub("", name)}


def difference(row: str, file: str) -> tuple[str, ...]:
    """The smallest set of differences between a row and a file; empty if none explains them."""
    elsewhere: tuple[str, ...] | None = None
    for number in range(len(DIFFERENCES) + 1):
        for names in combinations(DIFFERENCES, number):
            one, other = row, file
            for equal in map(DIFFERENCES.__getitem__, names):
                one, other = equal(one), equal(other)
            if one == other:
                return names
            if folders := _in_front(one, other):
                return (*names, folders)
            one_folder, _, one_name = one.rpartition("/")
            other_folder, _, other_name = other.rpartition("/")
            if one_name == other_name and elsewhere is None:
                elsewhere = (*names, f"the folder, {quoted(one_folder)} and {quoted(other_folder)}")
    return elsewhere or ()


def _in_front(row: str, file: str) -> str:
    """Describe the leading folders that only one of two paths has; empty if there are none."""
    if row.endswith(f"/{file}"):
        return f"the prefix {quoted(row.removesuffix(file))} of the rows"
    if file.endswith(f"/{row}"):
        return f"the prefix {quoted(file.removesuffix(row))} of the files"
    return ""
