"""Groups of images that are one picture, and what is wrong with a group: its splits, its classes, its number."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Finding = Literal["leak", "conflict", "redundant"]
FINDINGS: tuple[Finding, ...] = ("leak", "conflict", "redundant")
ORDER = {"train": 0, "validation": 1, "test": 2}  # a leak is named by the side that can give an image up


@dataclass(frozen=True)
class Copies:
    """The files of one class and split that have the same bytes. picture: number of the bytes. files: ascending numbers."""

    picture: int
    label: str
    split: str
    files: Sequence[int]


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file, and the file because of which. score: 1 for equal bytes, else that of the two pictures; of
    pictures that are connected only through others, the lowest in their group."""

    file: int
    finding: Finding
    partner: int
    score: float


def groups(first: np.ndarray, second: np.ndarray) -> dict[int, int]:
    """Number → the smallest number of its group, for each number that a pair has. The order of pairs does not matter."""
    parent = {number: number for number in np.unique(np.concatenate([first, second])).tolist()}

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for one, other in zip(first.tolist(), second.tolist(), strict=True):
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return {number: root(number) for number in parent}


def faults(group: Sequence[Copies], scores: Mapping[int, Mapping[int, float]]) -> Iterator[Fault]:
    """What is wrong with the files of one group.

    scores: picture → other picture → score, in both directions. leak: the partner is in another split, and the file in the
    earlier one of training, validation and test. conflict: the partner has another class. redundant: an earlier file of the
    same class and split is the same picture. The partner is the file with the best score, of these the first.
    """
    of_picture: dict[int, list[Copies]] = {}
    firsts: dict[tuple[str, str], Copies] = {}
    for copies in sorted(group, key=lambda copies: copies.files[0]):
        of_picture.setdefault(copies.picture, []).append(copies)
        firsts.setdefault((copies.label, copies.split), copies)
    lowest = min((score for by in (scores.get(one, {}) for one in of_picture) for score in by.values()), default=1.0)
    for copies in group:
        near = scores.get(copies.picture, {})
        known = [(1.0, other) for other in of_picture[copies.picture]]
        known += [(score, other) for picture, score in near.items() for other in of_picture[picture]]
        known += [(lowest, other) for other in firsts.values() if other.picture not in (copies.picture, *near)]
        ranked = sorted((-score, other.files[0], other) for score, other in known)
        yield from _between(copies, ranked)
        yield from _within(copies, ranked)


Ranked = Sequence[tuple[float, int, Copies]]  # minus the score, the first file, the files


def _between(copies: Copies, ranked: Ranked) -> Iterator[Fault]:
    """Leaks and conflicts: each file with the best partner of another split, and of another class."""
    leak = next(((s, f) for s, f, other in ranked if ORDER[copies.split] < ORDER[other.split]), None)
    conflict = next(((s, f) for s, f, other in ranked if copies.label != other.label), None)
    partners: tuple[tuple[Finding, tuple[float, int] | None], ...] = (("leak", leak), ("conflict", conflict))
    for finding, partner in partners:
        if partner:
            yield from (Fault(file, finding, partner[1], -partner[0]) for file in copies.files)


def _within(copies: Copies, ranked: Ranked) -> Iterator[Fault]:
    """Each file but the first of its class and split in the group."""
    kind = copies.label, copies.split
    for file in copies.files:
        partner = next(((s, f) for s, f, other in ranked if (other.label, other.split) == kind and f < file), None)
        if partner:
            yield Fault(file, "redundant", partner[1], -partner[0])
