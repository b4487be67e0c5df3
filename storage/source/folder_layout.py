"""The layout of a folder: which folders hold images, and the class and split of those images."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from storage.errors import InputError, LayoutChanged
from storage.source.labels import Label

Layout = Literal["auto", "classes", "splits"]
# Images of deeper folders count towards the folder at this depth. No real splits lie deeper, and a path can have
# 2,000 levels.
DEPTH = 8


def text(name: bytes) -> str:
    """Decode a folder's name. Bytes that are not UTF-8 become \\x.. escapes.

    A backslash that looks like such an escape is escaped too, so that no two names have the same text.
    """
    return name.replace(rb"\x", rb"\x5cx").decode("utf-8", "backslashreplace")


@dataclass
class Folder:
    """A folder with images in it or below.

    path: as in a scan, with a slash at the end. images: the number of images directly in it.
    """

    path: bytes = b""
    images: int = 0
    folders: dict[str, "Folder"] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the folder, without its parents."""
        return text(self.path[:-1].rpartition(b"/")[2])

    @property
    def only(self) -> "Folder | None":
        """Its only folder, if it holds nothing else."""
        return next(iter(self.folders.values())) if len(self.folders) == 1 and not self.images else None

    def at(self, path: bytes) -> "Folder":
        """The folder at a path below this one."""
        folder = self
        for name in path.split(b"/")[:-1]:
            folder = folder.folders[text(name)]
        return folder


def tree_of(images: Mapping[bytes, int]) -> Folder:
    """Build the tree of folders from the number of images directly in each path.

    Images of folders deeper than DEPTH count towards the folder at that depth.
    """
    root = Folder()
    for path, number in sorted(images.items()):
        folder, parts = root, path.split(b"/")[:-1]
        for depth in range(min(len(parts), DEPTH)):
            below = b"/".join(parts[: depth + 1]) + b"/"
            folder = folder.folders.setdefault(text(parts[depth]), Folder(below))
        folder.images += number
    return root


@dataclass(frozen=True)
class Part:
    """A rule for one folder: the folders in it are classes of `split`. With a `name`, all below it is of that class."""

    path: bytes = b""
    split: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class FolderLayout:
    """The rules that label images by their folders.

    remarks: lines about what was guessed. doubt: why a run must not use the layout; empty if it may. suspect: the class
    that the doubt is about, if any. is_change: the doubt is that the newest version labels the same files differently.
    held_out: no folder is for validation, so a part of the training images is held out.
    """

    parts: tuple[Part, ...] = (Part(),)
    remarks: tuple[str, ...] = ()
    doubt: str = ""
    suspect: str = ""
    is_change: bool = False
    held_out: bool = False

    @cached_property
    def _by_path(self) -> dict[bytes, Part]:
        return {part.path: part for part in self.parts}

    @property
    def is_plain(self) -> bool:
        """Whether only the first folder of a path decides: it is the class."""
        return self.parts == (Part(),)

    def label(self, folder: bytes) -> Label | None:
        """The label of the files in a folder; None if the folder is in no class."""
        path = folder
        while True:
            if part := self._by_path.get(path):
                if part.name is not None:
                    return Label(part.name, part.split)
                first = folder[len(path) :].partition(b"/")[0]
                return Label(text(first), part.split) if first else None
            if not path:
                return None
            path = path[: path[:-1].rfind(b"/") + 1]

    def record(self) -> dict[str, Any]:
        """The layout as a JSON record."""
        parts = [(part.path.hex(), part.split, part.name) for part in self.parts]
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"parts": parts}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "FolderLayout":
        """The layout that `record` returned."""
        parts = tuple(Part(bytes.fromhex(path), split, name) for path, split, name in record["parts"])
        return cls(**{**record, "parts": parts, "remarks": tuple(record["remarks"])})

    def check(self) -> None:
        """Raise InputError if the layout is ambiguous, LayoutChanged if it would change the labels of the store."""
        if self.doubt:
            raise LayoutChanged(self.doubt) if self.is_change else InputError(self.doubt)


CLASSES = FolderLayout()
