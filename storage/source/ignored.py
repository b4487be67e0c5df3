"""Count the skipped files by kind and folder."""

import os
from collections import Counter

from storage.text import count, visible

MOST_KINDS = 1_000  # the limit of distinct suffixes, because a folder may hold any number of them
MOST_FOLDERS = 10_000
LONGEST_KIND = 16
SHOWN = 5


class Ignored:
    """Counts of skipped files by kind and by folder, in bounded memory."""

    def __init__(self):
        self.kinds: Counter[str] = Counter()
        self.folders: dict[bytes, Counter[str]] = {}

    def add(self, folder: bytes, kind: str) -> None:
        """Count a file of the given kind in a folder."""
        kind = kind if kind in self.kinds or len(self.kinds) < MOST_KINDS else "with other suffixes"
        self.kinds[kind] += 1
        if folder in self.folders or len(self.folders) < MOST_FOLDERS:
            self.folders.setdefault(folder, Counter())[kind] += 1

    @property
    def number(self) -> int:
        return self.kinds.total()

    def summary(self) -> list[str]:
        """One line with the counts by kind, most frequent first; no line if there are no files."""
        return [f"ignored: {kind_counts(self.kinds)}"] if self.number else []


def kind_counts(kinds: Counter[str]) -> str:
    """`3 .txt, 2 .tif and 4 others`."""
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{number:,} {visible(kind)}" for kind, number in ordered[:SHOWN])
    others = sum(number for _, number in ordered[SHOWN:])
    return f"{named} and {count(others, 'other')}" if others else named


def suffix_of(name: bytes) -> str:
    """The kind of a file by its name: its suffix in lower case, `hidden`, or `without a suffix`."""
    if name.startswith(b"."):
        return "hidden"
    stem, dot, suffix = os.fsdecode(name).rpartition(".")
    return (dot + suffix.lower())[:LONGEST_KIND] if stem and dot else "without a suffix"
