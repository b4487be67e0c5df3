"""What folders of images mean: where class and split stand in a path, guessed from the names of those that hold images.

Pure. What is guessed beyond the plain names of splits is said; what can be meant in two ways is doubtful, and is for
the user to decide.
"""

from collections.abc import Iterable
from dataclasses import replace

from storage.errors import InputError
from storage.source.folder_layout import CLASSES, Folder, FolderLayout, Layout, Part
from storage.source.splits import PLAIN, as_read, splits_of, stems_of
from storage.text import count, some, visible


def guess(root: Folder, name: str, asked: Layout = "auto", others: Iterable[str] = ()) -> FolderLayout:
    """What the folders of images below `root` mean, as asked or as they look.

    name: of the root, for people. others: first folders of which it is not known what they hold. Raises InputError
    where splits are asked for and the folders are none.
    """
    if asked == "classes" or not root.folders:
        return CLASSES
    return _Guess(root, visible(name), asked, tuple(others)).layout()


def _has_classes(folder: Folder) -> bool:
    return bool(folder.folders)


def _is_wrapper(folder: Folder) -> bool:
    """Whether a folder that has none beside it holds classes or splits, and is no class itself."""
    if splits := splits_of(folder.folders):
        return any(_has_classes(folder.folders[split]) for split in splits)
    if folder.images:
        return False
    return len(folder.folders) > 1 or any(map(_is_wrapper, folder.folders.values()))


class _Guess:
    def __init__(self, root: Folder, name: str, asked: Layout, others: tuple[str, ...]):
        self.root, self.name, self.asked, self.others = root, name, asked, others
        self.remarks: list[str] = []
        self.top = self._unwrapped(root)
        self.folders = self.top.folders

    def layout(self) -> FolderLayout:
        splits = splits_of(self.folders) or self._with_a_stem()
        found = self._by_split(splits) if splits else self._by_class()
        return found if found.doubt else replace(found, remarks=found.remarks + _taken_for_classes(self.root, found))

    def _unwrapped(self, root: Folder) -> Folder:
        """The folder that holds classes or splits: the root, or below it where no other folder has images."""
        folder = root
        while len(folder.folders) == 1 and not self.others:
            (below,) = folder.folders.values()
            if splits_of([below.name]) or not _is_wrapper(below):
                break
            folder = below
        if folder is not root:
            self.remarks.append(f"{self._shown(folder)} holds all images of {self.name}: taken for the image folder")
        return folder

    def _shown(self, folder: Folder) -> str:
        return visible(folder.path)

    def _with_a_stem(self) -> dict[str, str]:
        """`seg_train`, `seg_test`: splits whose names begin or end alike."""
        stems = stems_of(self.folders)
        alike = {stem for stem, _ in stems.values()}
        splits = {name: split for name, (_, split) in stems.items()}
        return splits if len(alike) == 1 and {"train"} < set(splits.values()) else {}

    # Folders of splits

    def _by_split(self, splits: dict[str, str]) -> FolderLayout:
        strangers = [folder for name, folder in self.folders.items() if name not in splits]
        meanings = set(splits.values())
        if any(_has_classes(self.folders[name]) for name in splits):
            are_without_class = {"train"} < meanings and not any(map(_has_classes, map(self._start, strangers)))
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
        if any(_has_classes(self.folders[name]) for name in splits):
            return self._doubt(
                f"{seen}, and {some(sorted(folder.name for folder in strangers))} beside them does not",
                "move out what is no split, and --layout splits takes the others so; --layout classes takes all for classes",
            )
        return self._doubt(
            f"{seen} and hold no class folders",
            "give the classes by --labels with a table; or --layout classes takes these folders for the classes",
        )

    def _no_split(self, name: str) -> InputError:
        return InputError(
            f"--layout splits: {self.name} holds the folder {name!r}, which is none of {', '.join(PLAIN)}"
        )

    def _splits(self, splits: dict[str, str], strangers: list[Folder]) -> FolderLayout:
        starts = {name: self._start(self.folders[name], split) for name, split in splits.items()}
        if inner := self._inner(list(starts.values())):
            starts = {name: folder.folders[inner] for name, folder in starts.items()}
            self.remarks.append(f"each split holds the folder {inner!a} alone: the folders in it are the classes")
        if read := {name: split for name, split in splits.items() if name not in PLAIN}:
            self.remarks.append(f"folders are taken for splits: {as_read(read)}")
        for folder in (*strangers, *starts.values()):
            if not _has_classes(self._start(folder)):
                number = count(self._start(folder).images, "image")
                self.remarks.append(f"{self._shown(folder)} holds no class folder: {number} left out")
        given = {split for name, split in splits.items() if _has_classes(starts[name])}
        return self._held_out([Part(starts[name].path, split) for name, split in splits.items()], given)

    def _inner(self, folders: list[Folder]) -> str:
        """The name of the one folder in each split that holds the classes; empty where the splits do."""
        only = [folder.only for folder in folders]
        names = {folder.name if folder and not folder.images else "" for folder in only}
        is_above = any(folder and len(folder.folders) > 1 for folder in only)
        return names.pop() if len(names) == 1 and is_above else ""

    def _start(self, folder: Folder, split: str = "") -> Folder:
        """The folder that holds a split's classes: `seg_train/seg_train` is one split."""
        while (only := folder.only) and (only.name == folder.name or splits_of([only.name]) == {only.name: split}):
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
        return self._doubtful_names() or self._doubtful_levels() or self._classes()

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
                "--layout classes trains on all of them",
            )
        return self._doubt(
            f"{seen}, but not every image lies in one",
            "--layout classes trains on all of them; "
            "else put every image of every class into such a folder (train/cats/ or cats/train/)",
        )

    def _doubtful_names(self) -> FolderLayout | None:
        """`cats_train`, `cats_test`, `dogs_train`: names of a class and a split at once; None where they are not."""
        stems = stems_of(self.folders)
        splits = {stem: {split for other, split in stems.values() if other == stem} for stem, _ in stems.values()}
        if len(stems) < len(self.folders) or not {"train"} < set.union(*splits.values()):
            return None
        if not any({"train"} < found for found in splits.values()):
            self.remarks.append(f"taken for classes, though named like splits: {some(sorted(self.folders))}")
            return None
        return self._doubt(
            f"{some(sorted(self.folders))} in {self._where()} name a class and a split at once",
            "put each into the folder of its split (train/cats/); or --layout classes takes each for a class",
        )

    def _doubtful_levels(self) -> FolderLayout | None:
        """Folders that hold the same folders: nothing says which level the classes are; None where they do not."""
        inside = [set(folder.folders) for folder in self.folders.values()]
        same = set.intersection(*inside)
        is_alike = len(inside) > 1 and len(same) > 1 and 2 * len(same) >= len(set.union(*inside))
        if not is_alike or all(folder.images for folder in self.folders.values()):
            return None
        names = some(sorted(self.folders))
        return self._doubt(
            f"{names} in {self._where()} hold the same folders {some(sorted(same))}, "
            "and nothing says which of the two levels are the classes",
            f"--layout classes takes {names} for the classes; "
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


def _taken_for_classes(root: Folder, layout: FolderLayout) -> tuple[str, ...]:
    """What to say of folders that are named like a split and are taken for a class, or for a part of one."""
    above = {path[: end + 1] for part in layout.parts for path in [part.path] for end in _ends(path)}
    found, waiting = [], [root]
    while waiting:
        folder = waiting.pop()
        waiting += folder.folders.values()
        below = (folder.folders[name].path for name in splits_of(folder.folders))
        found += [visible(path) for path in below if path not in above and layout.label(path)]
    return (f"taken for a class, or a part of one, and not for splits: {some(sorted(found))}",) if found else ()


def _ends(path: bytes) -> list[int]:
    return [index for index, char in enumerate(path) if char == ord("/")]
