"""Compare a guessed layout with the labels in the newest version."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from storage.source.folder_layout import CLASSES, FolderLayout, text
from storage.source.labels import Label
from storage.source.splits import splits_of
from storage.text import count, visible


@dataclass(frozen=True)
class Precedent:
    """The version to compare with. classes: split → class → images. files: yields pieces of its FILES_SCHEMA table."""

    number: int
    classes: Mapping[str, Mapping[str, int]]
    files: Callable[[], Iterator[pa.Table]]

    @property
    def names(self) -> set[str]:
        return {name for by_class in self.classes.values() for name in by_class}


def agreed(found: FolderLayout, folders: Collection[bytes], version: Precedent) -> FolderLayout:
    """Choose the layout to use: the guessed one or the version's, with a doubt if they conflict.

    folders: the folders that hold images now. If the version's classes are the first folders, they stay so whatever the
    folders look like, because its labels were committed so.
    """
    if not found.remarks and not found.doubt and _has_same_classes(found, folders, version):
        return found
    seen = _Comparison(found, folders, version)
    if not seen.common:
        return found
    is_new = bool(splits_of({text(folder.partition(b"/")[0]) for folder in folders} - version.names))
    if seen.differing and (is_new or not seen.is_plain):
        return replace(found, doubt=seen.complaint(), is_change=True)
    if seen.differing:
        return _as_before(version, found.remarks, "; `allow_relabels` labels the images by their folders")
    if found.held_out and version.classes.get("validation") and not seen.has_held_out:
        return replace(found, doubt=seen.loss(), is_change=True)
    is_otherwise = found.is_plain and not seen.is_plain  # the version took its splits from folders
    if not found.doubt or is_otherwise or (found.suspect not in version.names if found.suspect else is_new):
        return found
    doubt = found.doubt.removeprefix("`images`: ")
    if found.is_plain:
        return _as_before(version, [doubt])
    return replace(
        found, doubt="", remarks=(*found.remarks, f"labels as in version {version.number}, although {doubt}")
    )


def _as_before(version: Precedent, doubts: Collection[str], way: str = "") -> FolderLayout:
    remark = f"the first-level folders are the classes, as in version {version.number}{way}"
    return replace(CLASSES, remarks=(remark, *(f"the folders suggest otherwise: {doubt}" for doubt in doubts)))


def _has_same_classes(found: FolderLayout, folders: Collection[bytes], version: Precedent) -> bool:
    """Whether the classes and splits have the same names as in the version. If so, no file needs a comparison."""
    labels = {label for folder in folders if (label := found.label(folder))}
    splits = {label.split for label in labels} - {None}
    has_same_splits = splits == set(version.classes) if splits else "test" not in version.classes
    return has_same_splits and {label.name for label in labels} == version.names


class _Comparison:
    """Compare a layout with a version's labels of the files whose folders still hold images."""

    def __init__(self, found: FolderLayout, folders: Collection[bytes], version: Precedent):
        self.found, self.version = found, version
        self.common = self.differing = 0
        self.is_plain = True  # the version's classes are the first folders
        self.has_held_out = False
        self._example = ""
        named = {folder: _split_of(folder) for folder in folders}
        as_named = {"train": True, "validation": True}
        met: set[str] = set()
        labels: dict[bytes, Label | None] = {folder: found.label(folder) for folder in folders}
        for piece in version.files():
            for path, name, split in zip(
                *(piece[each].to_pylist() for each in ("path", "class", "split")), strict=True
            ):
                folder = path[: path.rfind(b"/") + 1]
                if folder in labels:
                    self._compare(path, labels[folder], Label(name, split))
                    if (named_split := named[folder]) in as_named:
                        met.add(named_split)
                        as_named[named_split] &= named_split == split
        if met == as_named.keys() and all(as_named.values()):
            self.is_plain = False  # a hash would have put some files into the other split

    def _compare(self, path: bytes, now: Label | None, then: Label) -> None:
        self.common += 1
        self.is_plain &= text(path.partition(b"/")[0]) == then.name and then.split != "test"
        self.has_held_out |= now is not None and now.split is None and then.split == "validation"
        if now is None or now.name != then.name or self._is_other_split(now.split, then.split):
            self.differing += 1
            self._example = self._example or f"{visible(path)} was {_described(then)} and is now {_described(now)}"

    def _is_other_split(self, now: str | None, then: str | None) -> bool:
        """Whether the split differs in a way that needs a doubt.

        Plain names may turn a split by hash into a given one, as when a folder validation is added beside train.
        """
        if now is None:
            return then == "test"
        return now != then and (bool(self.found.remarks) or "test" in (now, then))

    def complaint(self) -> str:
        number = f"{self.differing:,} of {count(self.common, 'image')}"
        keep = "`layout=classes` keeps the labels" if self.is_plain else "`labels` if they came from a table"
        way = (
            self.found.doubt.removeprefix("`images`: ")
            or f"run again with `allow_relabels` if this is intended; {keep}"
        )
        return (
            f"`images`: the folders label {number} differently than version {self.version.number}, for example "
            f"{self._example}; nothing was committed: {way}"
        )

    def loss(self) -> str:
        validation = count(sum(self.version.classes["validation"].values()), "validation image")
        return (
            f"`images`: the folder of {validation} of version {self.version.number} is gone, so a part of the training "
            "images would replace them; nothing was committed: run again with `allow_relabels` if this is intended"
        )


def _split_of(folder: bytes) -> str:
    """The split that a path's folders are named after; empty if their names mean no split, or several."""
    meanings = set(splits_of(text(folder[:-1]).split("/")).values())
    return meanings.pop() if len(meanings) == 1 else ""


def _described(label: Label | None) -> str:
    if label is None:
        return "of no class"
    return f"of class '{visible(label.name)}'" + (f" in {label.split}" if label.split else "")
