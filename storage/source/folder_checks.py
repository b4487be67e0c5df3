"""Inspect a tree of folders for signs against the layout that its names suggest. Pure functions."""

from collections.abc import Iterator, Sequence

from storage.source.folder_layout import Folder, FolderLayout
from storage.source.splits import splits_of, splits_with_a_stem, stems_of, words_of
from storage.text import first_few, visible


def has_classes(folder: Folder) -> bool:
    """Whether a folder contains folders, which can be classes."""
    return bool(folder.folders)


def is_wrapper(folder: Folder) -> bool:
    """Whether a folder without siblings holds classes or splits and is no class itself."""
    if splits := splits_of(folder.folders):
        return any(has_classes(folder.folders[split]) for split in splits)
    if folder.images:
        return False
    return len(folder.folders) > 1 or any(map(is_wrapper, folder.folders.values()))


def set_in_itself(folder: Folder) -> tuple[Folder, list[str]] | None:
    """Find a folder that repeats the data set inside itself. Returns that folder and the repeated names.

    It holds folders named like its siblings (`rose`, `tulip`, `flowers/rose`, `flowers/tulip`), or a copy of a sibling
    (`data/rose`, `data/tulip`, `copy/data/rose`, `copy/data/tulip`). One repeated name is not enough: it may be a
    folder that was moved into another.
    """
    below = {name: names_below(each) for name, each in folder.folders.items()}
    for name, each in folder.folders.items():
        same = each.folders.keys() & (folder.folders.keys() - {name})
        if len(same) > 1:
            return each, sorted(same)
        for other in below[name] & (folder.folders.keys() - {name}):
            if len(same := below[name] & below[other]) > 1:
                return each, sorted({other, *same})
    return None


def splits_below(folder: Folder) -> Iterator[Folder]:
    """Yield the folders of the first set of splits, such as `train` and `test`, in a folder or below."""
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        splits = splits_of(folder.folders)
        if len(set(splits.values())) < 2:
            splits = splits_with_a_stem(folder.folders)
        if splits:
            yield from (folder.folders[name] for name in splits)
            return
        waiting += folder.folders.values()


def names_below(folder: Folder) -> set[str]:
    """The names of all folders below a folder, at any depth."""
    return {name for each in folder.folders.values() for name in (each.name, *names_below(each))}


def pairs_of(names: Sequence[str]) -> dict[str, str]:
    """Find names that differ only by a split other than train, such as `cats` and `cats_test`.

    Returns name → split. The name without a split maps to train.
    """
    found: dict[str, str] = {}
    plain = {" ".join(words_of(name)): name for name in names}
    for name, (rest, split) in stems_of(names).items():
        if split != "train" and rest in plain:
            found |= {name: split, plain[rest]: "train"}
    return found


def taken_for_classes(root: Folder, layout: FolderLayout) -> tuple[str, ...]:
    """A remark on folders that are named like a split but count as a class or a part of one."""
    above = {path[: end + 1] for part in layout.parts for path in [part.path] for end in _ends(path)}
    found, waiting = [], [root]
    while waiting:
        folder = waiting.pop()
        waiting += folder.folders.values()
        below = (folder.folders[name].path for name in splits_of(folder.folders))
        found += [visible(path) for path in below if path not in above and layout.label(path)]
    return (f"treated as classes or parts of classes, not as splits: {first_few(sorted(found))}",) if found else ()


def _ends(path: bytes) -> list[int]:
    return [index for index, char in enumerate(path) if char == ord("/")]
