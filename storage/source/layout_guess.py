"""Guess where class and split are in a path, from the names of the folders that hold images.

Pure. What is guessed beyond the plain names of splits is said; what can be meant in two ways is doubtful, and is for
the user to decide.
"""

import shlex
from collections.abc import Collection, Iterable
from dataclasses import replace

from storage.errors import InputError
from storage.source.folder_checks import (
    has_classes,
    is_wrapper,
    names_below,
    pairs_of,
    set_in_itself,
    splits_below,
    taken_for_classes,
)
from storage.source.folder_layout import CLASSES, Folder, FolderLayout, Layout, Part
from storage.source.splits import PLAIN, as_read, is_filler, meanings_of, splits_of, splits_with_a_stem, stems_of
from storage.text import count, some, visible

SHOWN = 5  # folders that have a line each


def guess(root: Folder, name: str, asked: Layout = "auto", others: Iterable[str] = ()) -> FolderLayout:
    """What the folders of images below `root` mean, as asked or as they look.

    name: of the root, for people. others: first folders of which it is not known what they hold. Raises InputError
    where splits are asked for and the folders are none.
    """
    if asked == "classes" or not root.folders:
        return CLASSES
    return _Guess(root, name, asked, tuple(others)).layout()


class _Guess:
    def __init__(self, root: Folder, name: str, asked: Layout, others: tuple[str, ...]):
        self.root, self.name, self.asked, self.others = root, visible(name), asked, others
        self.remarks: list[str] = []
        self.top = self._unwrapped(root)
        self.folders = self.top.folders
        self.as_classes = "--layout classes" if self.top is root else f"{self._images(self.top)} --layout classes"

    def layout(self) -> FolderLayout:
        splits = splits_of(self.folders) or splits_with_a_stem(self.folders)
        found = self._by_split(splits) if splits else self._by_class()
        if not found.doubt and self.asked == "auto":
            found = self._doubtful_inside(found) or found
        return found if found.doubt else replace(found, remarks=found.remarks + taken_for_classes(self.root, found))

    def _doubtful_inside(self, found: FolderLayout) -> FolderLayout | None:
        """A set within itself, or splits below a class; None where there are none."""
        for part in found.parts:
            folder, way = self.root.at(part.path), self.as_classes if part == Part(self.top.path) else "--layout splits"
            if part.name is None and (twice := set_in_itself(folder)):
                doubt = self._doubt(
                    f"{self._shown(twice[0])} in {self.name} holds folders of the names of those beside it, {some(twice[1])}",
                    f"move it out if it is the same set once more; {way} takes it for a class",
                )
                return replace(found, doubt=doubt.doubt, suspect=twice[0].name)
            for each in folder.folders.values() if part.name is None else [folder]:
                if inside := [self._shown(split) for split in splits_below(each)]:
                    doubt = self._doubtful_splits_below(inside, way)
                    return replace(found, doubt=doubt.doubt, suspect=part.name or each.name)
        return None

    def _doubtful_splits_below(self, folders: list[str], way: str) -> FolderLayout:
        return self._doubt(
            f"{some(folders)} in {self.name} look like splits within a class, but not every image lies in one",
            f"{way} trains on all of them; "
            "else put every image of every class into such a folder (train/cats/ or cats/train/)",
        )

    def _unwrapped(self, root: Folder) -> Folder:
        """The folder that holds classes or splits: the root, or below it where no other folder has images."""
        folder = root
        while len(folder.folders) == 1 and not self.others:
            (below,) = folder.folders.values()
            if splits_of([below.name]) or not is_wrapper(below):
                break
            folder = below
        if folder is not root:
            self.remarks.append(f"{self._shown(folder)} holds all images of {self.name}: taken for the image folder")
        return folder

    def _images(self, folder: Folder) -> str:
        return f"--images {shlex.quote(f'{self.name}/{self._shown(folder)}')}"

    def _shown(self, folder: Folder) -> str:
        return visible(folder.path)

    # Folders of splits

    def _by_split(self, splits: dict[str, str]) -> FolderLayout:
        strangers = [folder for name, folder in self.folders.items() if name not in splits]
        meanings = set(splits.values())
        if any(has_classes(self.folders[name]) for name in splits):
            are_without_class = {"train"} < meanings and not any(map(has_classes, map(self._start, strangers)))
            if not strangers or are_without_class:
                return self._splits(splits, strangers)
        elif not strangers and (self.asked == "splits" or splits.keys() <= PLAIN.keys()):
            return self._splits(splits, [])  # no image has a class
        elif len(meanings) == 1 and self.asked == "auto":
            return self._classes()  # a class of such a name
        if self.asked == "splits":
            raise self._no_split(strangers[0].name)
        return self._doubtful_splits(splits, strangers)

    def _doubtful_splits(self, splits: dict[str, str], strangers: list[Folder]) -> FolderLayout:
        seen = f"{some(sorted(splits))} in {self._where()} look like splits"
        if any(has_classes(self.folders[name]) for name in splits):
            return self._doubt(
                f"{seen}, and {some(sorted(folder.name for folder in strangers))} beside them does not",
                f"move out what is no split, and --layout splits takes the others so; {self.as_classes} takes all for classes",
            )
        return self._doubt(
            f"{seen} and hold no class folders",
            f"give the classes by --labels with a table; or {self.as_classes} takes these folders for the classes",
        )

    def _no_split(self, name: str) -> InputError:
        return InputError(
            f"--layout splits: {self.name} holds the folder {name!r}, which is none of {', '.join(PLAIN)}"
        )

    def _splits(self, splits: dict[str, str], strangers: list[Folder]) -> FolderLayout:
        starts = {name: self._start(self.folders[name], split) for name, split in splits.items()}
        while inner := self._inner(list(starts.values())):
            starts = {name: self._start(folder.folders[inner], splits[name]) for name, folder in starts.items()}
            self.remarks.append(f"each split holds the folder {inner!a} alone: the folders in it are the classes")
        starts |= self._below_fillers(starts)
        if read := {name: split for name, split in splits.items() if name not in PLAIN}:
            self.remarks.append(f"folders are taken for splits: {as_read(read)}")
        self._tell_left_out([f for f in (*strangers, *starts.values()) if not has_classes(self._start(f))])
        given = {split for name, split in splits.items() if has_classes(starts[name])}
        return self._held_out([Part(starts[name].path, split) for name, split in splits.items()], given)

    def _tell_left_out(self, folders: list[Folder]) -> None:
        for folder in folders[:SHOWN]:
            number = count(self._start(folder).images, "image")
            self.remarks.append(f"{self._shown(folder)} holds no class folder: {number} left out")
        if others := folders[SHOWN:]:
            number = count(sum(self._start(folder).images for folder in others), "image")
            self.remarks.append(f"{count(len(others), 'more folder')} without class folders: {number} left out")

    def _below_fillers(self, starts: dict[str, Folder]) -> dict[str, Folder]:
        """`val/images/1.jpg` beside `train/cats/1.jpg`: a split's one folder of such a name is no class."""
        below = {name: only for name, folder in starts.items() if (only := folder.only) and is_filler(only.name)}
        if not any(has_classes(folder) for name, folder in starts.items() if name not in below):
            return {}
        for folder in below.values():
            if has_classes(folder):
                self.remarks.append(f"{self._shown(folder)} is no class: the folders in it are the classes")
        return below

    def _inner(self, folders: list[Folder]) -> str:
        """The name of the one folder in each split that holds the classes; empty where the splits do."""
        only = [folder.only for folder in folders]
        names = {folder.name if folder and not folder.images else "" for folder in only}
        is_above = any(folder and is_wrapper(folder) for folder in only)
        return names.pop() if len(names) == 1 and is_above else ""

    def _start(self, folder: Folder, split: str = "") -> Folder:
        """The folder that holds a split's classes: `seg_train/seg_train` is one split."""
        while (only := folder.only) and (only.name == folder.name or split in meanings_of(only.name)):
            folder = only
        return folder

    def _held_out(self, parts: list[Part], given: set[str]) -> FolderLayout:
        """Parts, and the splits that have classes; where validation is none of these, a part of train is held out."""
        if "train" not in given or "validation" in given | set(splits_of(self.others).values()):
            return self._layout(parts)
        self.remarks.append("no folder is for validation: --validation-fraction of the training images is held out")
        return self._layout(
            [Part(part.path, None if part.split == "train" else part.split, part.name) for part in parts], True
        )

    # Folders of classes

    def _by_class(self) -> FolderLayout:
        splits = {name: splits_of(folder.folders) for name, folder in self.folders.items()}
        found = {split for of in splits.values() for split in of.values()}
        is_full = "train" in found and all(
            not folder.images and folder.folders.keys() == splits[name].keys() for name, folder in self.folders.items()
        )
        if is_full and (self.asked == "splits" or not self._has_classes_in_splits(splits)):
            return self._classes_of_splits(splits)
        if self.asked == "splits":
            raise self._no_split(next(iter(self.folders)))
        if any(len(set(of.values())) > 1 for of in splits.values()) or sum(map(bool, splits.values())) > 1:
            return self._doubtful_classes(splits, is_full)
        return self._doubtful_filler() or self._doubtful_levels() or self._doubtful_names() or self._classes()

    def _has_classes_in_splits(self, splits: dict[str, dict[str, str]]) -> bool:
        """Whether folders of one name lie in several splits of a folder: they may be the classes."""
        for name, of in splits.items():
            inside = [self.folders[name].folders[split].folders.keys() for split in of]
            if len(inside) > 1 and set(inside[0]).intersection(*inside[1:]):
                return True
        return False

    def _classes_of_splits(self, splits: dict[str, dict[str, str]]) -> FolderLayout:
        parts = [
            Part(self.folders[name].folders[below].path, split, name)
            for name, of in splits.items()
            for below, split in of.items()
        ]
        read = {below: split for of in splits.values() for below, split in of.items()}
        self.remarks.append(f"each class folder holds splits: {as_read(read)}")
        return self._held_out(parts, {split for of in splits.values() for split in of.values()})

    def _doubtful_classes(self, splits: dict[str, dict[str, str]], is_full: bool) -> FolderLayout:
        name = next(name for name, of in splits.items() if of)
        folders = [self._shown(self.folders[name].folders[below]) for below in splits[name]]
        seen = f"{some(folders)} in {self.name} look like splits within a class"
        if is_full:
            return self._doubt(
                f"{seen}, but hold folders of the same names, which may be the classes",
                f"--layout splits takes {some(sorted(self.folders))} for the classes, each with its splits; "
                f"{self.as_classes} trains on all of them",
            )
        return self._doubtful_splits_below(folders, self.as_classes)

    def _doubtful_filler(self) -> FolderLayout | None:
        """`images/cats`, `images/dogs` beside another folder: no class is called `images`; None where there is none."""
        for name, folder in self.folders.items():
            if is_filler(name) and len(self._start(folder).folders) > 1 and len(self.folders) > 1:
                beside = some(sorted(self.folders.keys() - {name}))
                return self._doubt(
                    f"{self._shown(folder)} in {self.name} holds folders as if they were the classes, and {beside} beside it",
                    f"{self._images(folder)} takes the folders in it; {self.as_classes} takes it for a class",
                )
        return None

    def _doubtful_names(self) -> FolderLayout | None:
        """`cats_train`, `cats_test`, `dogs_train`, or `cats` and `cats_test`: names of a class and a split at once; None
        where they are not."""
        pairs = pairs_of(list(self.folders))
        if len(pairs) == len(self.folders):
            return self._doubtful_pairs({stem for stem, _ in stems_of(pairs).values()})
        if pairs:
            self.remarks.append(f"taken for classes, though named like splits: {some(sorted(pairs))}")
        stems = stems_of(self.folders)
        splits = {stem: {split for other, split in stems.values() if other == stem} for stem, _ in stems.values()}
        if len(stems) < len(self.folders) or not {"train"} < set.union(*splits.values()):
            return None
        if not any({"train"} < found for found in splits.values()):
            self.remarks.append(f"taken for classes, though named like splits: {some(sorted(self.folders))}")
            return None
        return self._doubtful_pairs(splits)

    def _doubtful_pairs(self, stems: Collection[str]) -> FolderLayout:
        way = "put each into the folder of its split (train/cats/)"
        if len(stems) == 1:
            way = "if they are splits, name them train, validation and test"
        return self._doubt(
            f"{some(sorted(self.folders))} in {self._where()} name a class and a split at once",
            f"{way}; or {self.as_classes} takes each for a class",
        )

    def _doubtful_levels(self) -> FolderLayout | None:
        """Folders that hold the same folders: nothing says which level the classes are; None where they do not."""
        inside = [set(self._start(folder).folders) for folder in self.folders.values()]
        same = set.intersection(*inside)
        is_alike = len(inside) > 1 and len(same) > 1 and 2 * len(same) >= len(set.union(*inside))
        if is_alike and not all(folder.images for folder in self.folders.values()):
            return self._doubtful_tops(sorted(self.folders), sorted(same))
        return self._doubtful_stems()

    def _doubtful_stems(self) -> FolderLayout | None:
        """`seg_train/sea`, `seg_train/street` beside `old/seg_test/sea`, `old/seg_test/street`."""
        like_splits = [name for name in stems_of(self.folders) if len(self._start(self.folders[name]).folders) > 1]
        for name in like_splits:
            for other, folder in self.folders.items():
                same = names_below(self.folders[name]) & names_below(folder)
                if other != name and len(same) > 1:
                    return self._doubtful_tops(sorted([name, other]), sorted(same))
        if like_splits:
            self.remarks.append(f"taken for classes, though named like splits: {some(sorted(like_splits))}")
        return None

    def _doubtful_tops(self, tops: list[str], same: list[str]) -> FolderLayout:
        names = some(tops)
        return self._doubt(
            f"{names} in {self._where()} hold the same folders {some(same)}, "
            "and nothing says which of the two levels are the classes",
            f"{self.as_classes} takes {names} for the classes; "
            "if they are splits, name them train, validation and test, and --layout splits takes them so",
        )

    # What is found

    def _where(self) -> str:
        return self.name if self.top is self.root else f"{self._shown(self.top)} of {self.name}"

    def _classes(self) -> FolderLayout:
        return self._layout([Part(self.top.path)])

    def _layout(self, parts: list[Part], held_out: bool = False) -> FolderLayout:
        return FolderLayout(tuple(parts), tuple(self.remarks), held_out=held_out)

    def _doubt(self, seen: str, way: str) -> FolderLayout:
        return FolderLayout(doubt=f"--images: {seen}: {way}")
