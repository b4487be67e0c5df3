"""What an ambiguous layout of folders looks like, and how to say which meaning is right: one sentence each."""

import shlex
from collections.abc import Collection, Iterable, Sequence

from storage.errors import InputError
from storage.source.folder_layout import Folder
from storage.source.splits import PLAIN
from storage.text import some, visible


def shown(folder: Folder) -> str:
    return visible(folder.path)


class Doubts:
    """Sentences about the folders of `top`, which is `root` or lies below it. name: of the root, for people."""

    def __init__(self, root: Folder, top: Folder, name: str):
        self._name = name
        self._folders = top.folders
        self._where = name if top is root else f"{shown(top)} of {name}"
        self.as_classes = "`layout=classes`" if top is root else f"{self._images(top)} `layout=classes`"

    def set_in_itself(self, twice: Folder, names: Sequence[str], way: str) -> str:
        return _doubt(
            f"{shown(twice)} in {self._name} holds folders of the names of those beside it, {some(names)}",
            f"move it out if it is the same set once more; {way} takes it for a class",
        )

    def splits_below(self, splits: Iterable[Folder], way: str) -> str:
        return _doubt(
            f"{some([shown(split) for split in splits])} in {self._name} look like splits within a class, "
            "but not every image lies in one",
            f"{way} trains on all of them; "
            "else put every image of every class into such a folder (train/cats/ or cats/train/)",
        )

    def splits_and_others(self, splits: Iterable[str], others: list[Folder]) -> str:
        """others: folders beside splits of classes; empty if it is the splits that hold no classes."""
        seen = f"{some(sorted(splits))} in {self._where} look like splits"
        if others:
            return _doubt(
                f"{seen}, and {some(sorted(folder.name for folder in others))} beside them does not",
                f"move out what is no split, and `layout=splits` takes the others so; {self.as_classes} takes all for classes",
            )
        return _doubt(
            f"{seen} and hold no class folders",
            f"give the classes by `labels` with a table; or {self.as_classes} takes these folders for the classes",
        )

    def no_split(self, name: str) -> InputError:
        return InputError(
            f"`layout=splits`: {self._name} holds the folder {name!r}, which is none of {', '.join(PLAIN)}"
        )

    def either_level(self, splits: Iterable[Folder]) -> str:
        return _doubt(
            f"{some([shown(split) for split in splits])} in {self._name} look like splits within a class, "
            "but hold folders of the same names, which may be the classes",
            f"`layout=splits` takes {some(sorted(self._folders))} for the classes, each with its splits; "
            f"{self.as_classes} trains on all of them",
        )

    def filler(self, folder: Folder, others: Iterable[str]) -> str:
        return _doubt(
            f"{shown(folder)} in {self._name} holds folders as if they were the classes, "
            f"and {some(sorted(others))} beside it",
            f"{self._images(folder)} takes the folders in it; {self.as_classes} takes it for a class",
        )

    def pairs(self, stems: Collection[str]) -> str:
        way = "put each into the folder of its split (train/cats/)"
        if len(stems) == 1:
            way = "if they are splits, name them train, validation and test"
        return _doubt(
            f"{some(sorted(self._folders))} in {self._where} name a class and a split at once",
            f"{way}; or {self.as_classes} takes each for a class",
        )

    def tops(self, tops: Iterable[str], same: Iterable[str]) -> str:
        names = some(sorted(tops))
        return _doubt(
            f"{names} in {self._where} hold the same folders {some(sorted(same))}, "
            "and nothing says which of the two levels are the classes",
            f"{self.as_classes} takes {names} for the classes; "
            "if they are splits, name them train, validation and test, and `layout=splits` takes them so",
        )

    def _images(self, folder: Folder) -> str:
        return f"`images={shlex.quote(f'{self._name}/{shown(folder)}')}`"


def _doubt(seen: str, way: str) -> str:
    return f"`images`: {seen}: {way}"
