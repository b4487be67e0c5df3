"""What in a tree of folders speaks against the layout that its names suggest. Pure."""

from collections.abc import Iterator, Sequence

from storage.source.folder_layout import Folder, FolderLayout
from storage.source.splits import splits_of, stems_of, words_of
from storage.text import some, visible


def set_in_itself(folder: Folder) -> tuple[Folder, list[str]] | None:
    """A folder that holds folders of the names of those beside it (`rose`, `tulip`, `flowers/rose`, `flowers/tulip`),
    and these names. One name alone may be a folder that was put into another."""
    for each in folder.folders.values():
        same = sorted(each.folders.keys() & (folder.folders.keys() - {each.name}))
        if len(same) > 1:
            return each, same
    return None


def splits_below(folder: Folder) -> Iterator[Folder]:
    """The folders of the first pair of splits, as `train` and `test`, that lies in a folder or further down."""
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        splits = splits_of(folder.folders)
        if len(set(splits.values())) > 1:
            yield from (folder.folders[name] for name in splits)
            return
        waiting += folder.folders.values()


def pairs_of(names: Sequence[str]) -> dict[str, str]:
    """The names of which one is another with a split that is not for training: `cats` and `cats_test`.

    Name → split; that without one is of train.
    """
    found: dict[str, str] = {}
    plain = {" ".join(words_of(name)): name for name in names}
    for name, (rest, split) in stems_of(names).items():
        if split != "train" and rest in plain:
            found |= {name: split, plain[rest]: "train"}
    return found


def taken_for_classes(root: Folder, layout: FolderLayout) -> tuple[str, ...]:
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
