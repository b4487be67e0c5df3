"""Describe ambiguous layouts of folders, and say how to choose a meaning: one sentence each."""

import shlex
from collections.abc import Collection, Iterable, Sequence

from storage.errors import InputError
from storage.source.folder_layout import Folder
from storage.source.splits import PLAIN
from storage.text import first_few, visible


def path_of(folder: Folder) -> str:
    """The path of a folder for a message."""
    return visible(folder.path)


class Doubts:
    """Sentences about the folders of `top`, which is `root` or lies below it. name: of the root, for people."""

    def __init__(self, root: Folder, top: Folder, name: str):
        self._name = name
        self._folders = top.folders
        self._where = name if top is root else f"{path_of(top)} of {name}"
        self.as_classes = "`layout=classes`" if top is root else f"{self._images(top)} `layout=classes`"

    def set_in_itself(self, twice: Folder, names: Sequence[str], way: str) -> str:
        return _doubt(
            f"{path_of(twice)} in {self._name} contains folders with the names of its siblings, {first_few(names)}",
            f"move it out if it is a copy of the data set; {way} treats it as a class",
        )

    def splits_below(self, splits: Iterable[Folder], way: str) -> str:
        return _doubt(
            f"{first_few([path_of(split) for split in splits])} in {self._name} look like splits within a class, "
            "but some images lie outside of such folders",
            f"{way} trains on all of them; "
            "otherwise put every image of every class into such a folder (train/cats/ or cats/train/)",
        )

    def splits_and_others(self, splits: Iterable[str], others: list[Folder]) -> str:
        """others: folders beside splits that contain classes; empty if the splits contain no classes."""
        seen = f"{first_few(sorted(splits))} in {self._where} look like splits"
        if others:
            return _doubt(
                f"{seen}, but not {first_few(sorted(folder.name for folder in others))} beside them",
                "move out what is not a split, and `layout=splits` uses the others as splits; "
                f"{self.as_classes} treats all as classes",
            )
        return _doubt(
            f"{seen} but contain no class folders",
            f"give the classes in a table with `labels`; or {self.as_classes} treats these folders as the classes",
        )

    def no_split(self, name: str) -> InputError:
        return InputError(
            f"`layout=splits`: {self._name} contains the folder {name!r}; expected only {', '.join(PLAIN)}"
        )

    def either_level(self, splits: Iterable[Folder]) -> str:
        return _doubt(
            f"{first_few([path_of(split) for split in splits])} in {self._name} look like splits within a class, "
            "but contain folders with the same names, which may be the classes",
            f"`layout=splits` treats {first_few(sorted(self._folders))} as the classes, each with its splits; "
            f"{self.as_classes} trains on all of them",
        )

    def filler(self, folder: Folder, others: Iterable[str]) -> str:
        return _doubt(
            f"{path_of(folder)} in {self._name} contains folders that look like the classes, "
            f"but {first_few(sorted(others))} beside it may be a class too",
            f"{self._images(folder)} uses the folders in it as the classes; {self.as_classes} treats it as a class",
        )

    def pairs(self, stems: Collection[str]) -> str:
        way = "put each into the folder of its split (train/cats/)"
        if len(stems) == 1:
            way = "if they are splits, name them train, validation and test"
        return _doubt(
            f"the names of {first_few(sorted(self._folders))} in {self._where} contain both a class and a split",
            f"{way}; or {self.as_classes} treats each as a class",
        )

    def tops(self, tops: Iterable[str], same: Iterable[str]) -> str:
        names = first_few(sorted(tops))
        return _doubt(
            f"{names} in {self._where} contain the same folders {first_few(sorted(same))}, "
            "so either level may be the classes",
            f"{self.as_classes} treats {names} as the classes; "
            "if they are splits, name them train, validation and test, and `layout=splits` uses them as splits",
        )

    def _images(self, folder: Folder) -> str:
        return f"`images={shlex.quote(f'{self._name}/{path_of(folder)}')}`"


def _doubt(seen: str, way: str) -> str:
    return f"`images`: {seen}: {way}"
