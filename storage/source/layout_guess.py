"""Guess which part of a path is the class and which the split, from the names of the folders that hold images.

Pure functions. A guess beyond the plain names of splits becomes a remark. A layout with two possible meanings becomes a
doubt, which the user resolves.
"""

from collections.abc import Iterable
from dataclasses import replace

from storage.source.doubts import Doubts, path_of
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
from storage.text import count, first_few, visible

SHOWN = 5  # folders that have a line each


def guess(root: Folder, name: str, asked: Layout = "auto", others: Iterable[str] = ()) -> FolderLayout:
    """Guess the layout of the folders of images below `root`.

    name: the root's name in messages. asked: the layout that the user chose. others: first-level folders with unknown
    content. Raises InputError if the user chose splits and the folders are no splits.
    """
    if asked == "classes" or not root.folders:
        return CLASSES
    return _Guess(root, name, asked, tuple(others)).layout()


class _Guess:
    """One guess: collects remarks while it looks for a layout."""

    def __init__(self, root: Folder, name: str, asked: Layout, others: tuple[str, ...]):
        self.root, self.name, self.asked, self.others = root, visible(name), asked, others
        self.remarks: list[str] = []
        self.top = self._unwrapped(root)
        self.folders = self.top.folders
        self.doubts = Doubts(root, self.top, self.name)

    def layout(self) -> FolderLayout:
        """The layout, with a doubt if it is ambiguous."""
        splits = splits_of(self.folders) or splits_with_a_stem(self.folders)
        found = self._by_split(splits) if splits else self._by_class()
        if not found.doubt and self.asked == "auto":
            found = self._doubtful_inside(found) or found
        return found if found.doubt else replace(found, remarks=found.remarks + taken_for_classes(self.root, found))

    def _doubtful_inside(self, found: FolderLayout) -> FolderLayout | None:
        """The layout with a doubt, if it contains a copy of itself or splits below a class; else None."""
        for part in found.parts:
            folder, way = (
                self.root.at(part.path),
                self.doubts.as_classes if part == Part(self.top.path) else "`layout=splits`",
            )
            if part.name is None and (twice := set_in_itself(folder)):
                return replace(found, doubt=self.doubts.set_in_itself(*twice, way), suspect=twice[0].name)
            for each in folder.folders.values() if part.name is None else [folder]:
                if inside := list(splits_below(each)):
                    return replace(found, doubt=self.doubts.splits_below(inside, way), suspect=part.name or each.name)
        return None

    def _unwrapped(self, root: Folder) -> Folder:
        """The folder that holds the classes or splits: the root, or a folder below it that contains all images."""
        folder = root
        while len(folder.folders) == 1 and not self.others:
            (below,) = folder.folders.values()
            if splits_of([below.name]) or not is_wrapper(below):
                break
            folder = below
        if folder is not root:
            self.remarks.append(
                f"{path_of(folder)} contains all images of {self.name}, so it is used as the image folder"
            )
        return folder

    # Folders of splits

    def _by_split(self, splits: dict[str, str]) -> FolderLayout:
        """The layout if some first-level folders are named like splits."""
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
            raise self.doubts.no_split(strangers[0].name)
        has_class = any(has_classes(self.folders[name]) for name in splits)
        return _doubtful(self.doubts.splits_and_others(splits, strangers if has_class else []))

    def _splits(self, splits: dict[str, str], strangers: list[Folder]) -> FolderLayout:
        """The layout in which `splits` (folder → split) are splits. strangers: the other folders, which are skipped."""
        starts = {name: self._start(self.folders[name], split) for name, split in splits.items()}
        while inner := self._inner(list(starts.values())):
            starts = {name: self._start(folder.folders[inner], splits[name]) for name, folder in starts.items()}
            self.remarks.append(f"each split contains only the folder {inner!a}: the folders in it are the classes")
        starts |= self._below_fillers(starts)
        if read := {name: split for name, split in splits.items() if name not in PLAIN}:
            self.remarks.append(f"folders used as splits: {as_read(read)}")
        self._note_skipped([f for f in (*strangers, *starts.values()) if not has_classes(self._start(f))])
        given = {split for name, split in splits.items() if has_classes(starts[name])}
        return self._held_out([Part(starts[name].path, split) for name, split in splits.items()], given)

    def _note_skipped(self, folders: list[Folder]) -> None:
        """Add a remark for each folder without class folders; its images are skipped."""
        for folder in folders[:SHOWN]:
            number = count(self._start(folder).images, "image")
            self.remarks.append(f"{path_of(folder)} contains no class folder: {number} skipped")
        if others := folders[SHOWN:]:
            number = count(sum(self._start(folder).images for folder in others), "image")
            self.remarks.append(f"{count(len(others), 'more folder')} without class folders: {number} skipped")

    def _below_fillers(self, starts: dict[str, Folder]) -> dict[str, Folder]:
        """Find `val/images/` beside `train/cats/`: the only folder of a split is a filler, not a class.

        Returns split folder → the folder that holds its classes.
        """
        below = {name: only for name, folder in starts.items() if (only := folder.only) and is_filler(only.name)}
        if not any(has_classes(folder) for name, folder in starts.items() if name not in below):
            return {}
        for folder in below.values():
            if has_classes(folder):
                self.remarks.append(f"{path_of(folder)} is not a class: the folders in it are the classes")
        return below

    def _inner(self, folders: list[Folder]) -> str:
        """The name of the one folder in every split that holds the classes; empty if the splits hold them directly."""
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
        """The layout of `parts`. If train has classes and validation has none, a part of the training images is held out.

        given: the splits that have classes.
        """
        if "train" not in given or "validation" in given | set(splits_of(self.others).values()):
            return self._layout(parts)
        self.remarks.append("there is no validation folder: `validation_fraction` of the training images is held out")
        return self._layout(
            [Part(part.path, None if part.split == "train" else part.split, part.name) for part in parts], True
        )

    # Folders of classes

    def _by_class(self) -> FolderLayout:
        """The layout if no first-level folder is named like a split."""
        splits = {name: splits_of(folder.folders) for name, folder in self.folders.items()}
        found = {split for of in splits.values() for split in of.values()}
        is_full = "train" in found and all(
            not folder.images and folder.folders.keys() == splits[name].keys() for name, folder in self.folders.items()
        )
        if is_full and (self.asked == "splits" or not self._has_classes_in_splits(splits)):
            return self._classes_of_splits(splits)
        if self.asked == "splits":
            raise self.doubts.no_split(next(iter(self.folders)))
        if any(len(set(of.values())) > 1 for of in splits.values()) or sum(map(bool, splits.values())) > 1:
            name = next(name for name, of in splits.items() if of)
            inside = [self.folders[name].folders[below] for below in splits[name]]
            way = self.doubts.as_classes
            return _doubtful(self.doubts.either_level(inside) if is_full else self.doubts.splits_below(inside, way))
        return self._doubtful_filler() or self._doubtful_levels() or self._doubtful_names() or self._classes()

    def _has_classes_in_splits(self, splits: dict[str, dict[str, str]]) -> bool:
        """Whether several splits of one folder contain folders of the same name, which may be the classes."""
        for name, of in splits.items():
            inside = [self.folders[name].folders[split].folders.keys() for split in of]
            if len(inside) > 1 and set(inside[0]).intersection(*inside[1:]):
                return True
        return False

    def _classes_of_splits(self, splits: dict[str, dict[str, str]]) -> FolderLayout:
        """The layout in which each class folder contains splits. splits: class → folder → split."""
        parts = [
            Part(self.folders[name].folders[below].path, split, name)
            for name, of in splits.items()
            for below, split in of.items()
        ]
        read = {below: split for of in splits.values() for below, split in of.items()}
        self.remarks.append(f"each class folder contains splits: {as_read(read)}")
        return self._held_out(parts, {split for of in splits.values() for split in of.values()})

    def _doubtful_filler(self) -> FolderLayout | None:
        """A doubt if `images/cats`, `images/dogs` lie beside a folder, because `images` is no class; else None."""
        for name, folder in self.folders.items():
            if is_filler(name) and len(self._start(folder).folders) > 1 and len(self.folders) > 1:
                return _doubtful(self.doubts.filler(folder, self.folders.keys() - {name}))
        return None

    def _doubtful_names(self) -> FolderLayout | None:
        """A doubt if names contain a class and a split, such as `cats_train` and `cats_test`; else None."""
        pairs = pairs_of(list(self.folders))
        if len(pairs) == len(self.folders):
            return _doubtful(self.doubts.pairs({stem for stem, _ in stems_of(pairs).values()}))
        if pairs:
            self.remarks.append(f"treated as classes although named like splits: {first_few(sorted(pairs))}")
        stems = stems_of(self.folders)
        splits = {stem: {split for other, split in stems.values() if other == stem} for stem, _ in stems.values()}
        if len(stems) < len(self.folders) or not {"train"} < set.union(*splits.values()):
            return None
        if not any({"train"} < found for found in splits.values()):
            self.remarks.append(f"treated as classes although named like splits: {first_few(sorted(self.folders))}")
            return None
        return _doubtful(self.doubts.pairs(splits))

    def _doubtful_levels(self) -> FolderLayout | None:
        """A doubt if the folders contain the same folders, because either level may be the classes; else None."""
        inside = [set(self._start(folder).folders) for folder in self.folders.values()]
        same = set.intersection(*inside)
        is_alike = len(inside) > 1 and len(same) > 1 and 2 * len(same) >= len(set.union(*inside))
        if is_alike and not all(folder.images for folder in self.folders.values()):
            return _doubtful(self.doubts.tops(self.folders, same))
        return self._doubtful_stems()

    def _doubtful_stems(self) -> FolderLayout | None:
        """A doubt if `seg_train/sea` lies beside `old/seg_test/sea`, because `seg_train` may be a split; else None."""
        like_splits = [name for name in stems_of(self.folders) if len(self._start(self.folders[name]).folders) > 1]
        for name in like_splits:
            for other, folder in self.folders.items():
                same = names_below(self.folders[name]) & names_below(folder)
                if other != name and len(same) > 1:
                    return _doubtful(self.doubts.tops([name, other], same))
        if like_splits:
            self.remarks.append(f"treated as classes although named like splits: {first_few(sorted(like_splits))}")
        return None

    # What is found

    def _classes(self) -> FolderLayout:
        return self._layout([Part(self.top.path)])

    def _layout(self, parts: list[Part], held_out: bool = False) -> FolderLayout:
        return FolderLayout(tuple(parts), tuple(self.remarks), held_out=held_out)


def _doubtful(doubt: str) -> FolderLayout:
    return FolderLayout(doubt=doubt)
