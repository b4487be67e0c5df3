"""A layout: which folders hold images, and the class and split of the images in them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from storage.errors import InputError, LayoutChanged
from storage.source.labels import Label

Layout = Literal["auto", "classes", "splits"]
# Deeper folders count to the one above: nobody's splits lie so deep, and a path has room for 2,000 levels.
DEPTH = 8


def text(name: bytes) -> str:
    """A folder's name as text; bytes that are not UTF-8 become \\x.. escapes.

    So does the backslash of a name that looks like an escape: no two names have the same text.
    """
    return name.replace(rb"\x", rb"\x5cx").decode("utf-8", "backslashreplace")


@dataclass
class Folder:
    """A folder that holds images. path: as in a scan, ending in a slash. images: those directly in it."""

    path: bytes = b""
    images: int = 0
    folders: dict[str, "Folder"] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return text(self.path[:-1].rpartition(b"/")[2])

    @property
    def only(self) -> "Folder | None":
        """The one folder in it, where nothing else is in it."""
        return next(iter(self.folders.values())) if len(self.folders) == 1 and not self.images else None

    def at(self, path: bytes) -> "Folder":
        """The folder at a path below this one."""
        folder = self
        for name in path.split(b"/")[:-1]:
            folder = folder.folders[text(name)]
        return folder


def tree_of(images: Mapping[bytes, int]) -> Folder:
    """Folders from how many images lie directly in each path; deeper ones than DEPTH count to that above."""
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
    """Of a folder: the folders in it are classes of this split; or, with a `name`, all below it is of that class."""

    path: bytes = b""
    split: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class FolderLayout:
    """How images are labelled by their folders.

    remarks: what was guessed, to be said. doubt: why no run may go by it; empty where it may. suspect: the class that the
    doubt is about, where it is about one. is_change: the doubt is that the newest version labels the same files
    otherwise. held_out: no folder is for validation, so that a part of
    the training images is.
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
        """The first folder is the class, and nothing else counts."""
        return self.parts == (Part(),)

    def label(self, folder: bytes) -> Label | None:
        """The label of what lies in a folder; None where that is in no class."""
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
        """The layout as JSON has it."""
        parts = [(part.path.hex(), part.split, part.name) for part in self.parts]
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"parts": parts}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "FolderLayout":
        parts = tuple(Part(bytes.fromhex(path), split, name) for path, split, name in record["parts"])
        return cls(**{**record, "parts": parts, "remarks": tuple(record["remarks"])})

    def check(self) -> None:
        """Raise InputError for what can be meant in two ways, LayoutChanged for what changes a store's labels."""
        if self.doubt:
            raise LayoutChanged(self.doubt) if self.is_change else InputError(self.doubt)


CLASSES = FolderLayout()
