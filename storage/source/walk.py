"""Walk a folder of images or the prefixes of an object store: one row per file, without opening any."""

import errno
import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Mapping

import pyarrow as pa

from storage.backend.paths import Remote, identity
from storage.source.ignored import Ignored, suffix_of
from storage.source.labels import Label

# (folder's path, file's name) → label; None for a file to skip.
Labeller = Callable[[bytes, bytes], Label | None]

ROWS_A_TABLE = 50_000
SUFFIXES = (b".jpg", b".jpeg", b".jpe", b".jfif", b".png", b".gif", b".bmp", b".webp")

SCAN_SCHEMA = pa.schema(
    [
        pa.field("path", pa.binary(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("ctime_ns", pa.int64(), nullable=False),
        pa.field("class", pa.string(), nullable=False),
        pa.field("split", pa.string()),
    ]
)


# Folders that operating systems create, without images of the user. They are skipped, as are those with a leading dot.
SYSTEM_FOLDERS = {
    name.casefold()
    for name in (
        "@eaDir",
        "@Recycle",
        "@Recently-Snapshot",
        "#recycle",
        "#snapshot",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
        "__MACOSX",
        "__pycache__",
    )
}

# Errors that prove that nothing is there: a link to itself or to nowhere. Any other error leaves that open.
NOTHING_THERE = {errno.ELOOP, errno.ENOENT, errno.ENOTDIR}


def is_folder(entry: os.DirEntry[bytes]) -> bool:
    """Whether an entry is a folder or a link to one. Also True if an error, such as no permission, leaves that open."""
    try:
        return entry.is_dir()
    except OSError as error:
        return error.errno not in NOTHING_THERE


def wrapped(time_ns: int) -> int:
    """Wrap a time in ns modulo 2**64 (584 years), so that it fits in an int64. Clamping would make times equal."""
    return (time_ns + 2**63) % 2**64 - 2**63


def is_hidden(name: bytes) -> bool:
    """Whether a name begins with a dot."""
    return name.startswith(b".")


def is_of_system(name: bytes) -> bool:
    """Whether a name is one of SYSTEM_FOLDERS, in any case."""
    return os.fsdecode(name).casefold() in SYSTEM_FOLDERS


class GrowingTable:
    """A growing list of rows, packed as Arrow tables, which take a third of the memory of tuples."""

    def __init__(self, schema: pa.Schema):
        self.schema = schema
        self._rows: list[tuple] = []
        self._tables: list[pa.Table] = []

    def append(self, row: tuple) -> None:
        """Add one row."""
        self._rows.append(row)
        if len(self._rows) >= ROWS_A_TABLE:
            self._pack()

    def _pack(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else [()] * len(self.schema)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
        self._tables.append(pa.Table.from_arrays(arrays, schema=self.schema))
        self._rows = []

    def table(self) -> pa.Table:
        """All rows, sorted by path."""
        self._pack()
        return pa.concat_tables(self._tables).sort_by("path").combine_chunks()


class Walk:
    """Walks the folders below `root` and collects rows of SCAN_SCHEMA.

    images: the number of images directly in each folder. system: the folders skipped as SYSTEM_FOLDERS. outside: the
    skipped links that lead out of the root. has_links: whether there are links to folders. first_folders: the names of
    the folders in the root.
    """

    def __init__(self, root: bytes, is_in_class: Callable[[bytes], bool], label: Labeller, outside_links: bool):
        self.root = root
        self.outside_links = outside_links
        self.outside: list[bytes] = []
        self._real_root = os.path.realpath(root)
        self.is_in_class = is_in_class
        self.label = label
        self.rows = GrowingTable(SCAN_SCHEMA)
        self.images: Counter[bytes] = Counter()
        self.ignored = Ignored()
        self.unreadable: list[bytes] = []
        self.system: list[bytes] = []
        self.has_links = False
        self.first_folders: list[bytes] = []

    def folders(self) -> None:
        """Walk every folder, without recursion, because a path can have 2,000 levels.

        A folder counts once per class, however many links lead to it, because folders that link to each other have more
        paths than can be walked. Real folders come before links, and links in order of name, so that a link to a folder
        that the class has already changes nothing.
        """
        waiting = deque([(b"", set[tuple[int, int]]())])
        while waiting:
            prefix, seen = waiting.popleft()
            is_in_class = self.is_in_class(prefix)
            for entry in self.folder(prefix, seen):
                below = prefix + entry.name + b"/", seen if is_in_class else seen.copy()
                if entry.is_symlink():
                    self.has_links = True
                    waiting.append(below)
                else:
                    waiting.appendleft(below)

    def folder(self, prefix: bytes, seen: set[tuple[int, int]]) -> list[os.DirEntry[bytes]]:
        """Add the files of one folder and return the folders in it. Skips a folder whose identity is in `seen`."""
        path = os.path.join(self.root, prefix)
        try:
            status = os.stat(path)
            with os.scandir(path) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
        except OSError:
            self.unreadable.append(prefix)
            return []
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            return []
        seen.add(identity)
        folders = []
        for entry in found:
            if not is_folder(entry):
                self.file(prefix, entry)
            elif is_of_system(entry.name):
                self.system.append(prefix + entry.name)
            elif not is_hidden(entry.name) and not self.is_refused(prefix, entry):
                folders.append(entry)
        if not prefix:
            self.first_folders = [entry.name for entry in folders]
        return folders

    def is_refused(self, prefix: bytes, entry: os.DirEntry[bytes]) -> bool:
        """Whether an entry is a forbidden link out of the root. Records such a link."""
        if self.outside_links or not entry.is_symlink():
            return False
        end = os.path.realpath(entry.path)
        if end == self._real_root or end.startswith(self._real_root.rstrip(b"/") + b"/"):
            return False
        self.outside.append(prefix + entry.name)
        self.ignored.add(prefix, "links that lead out")
        return True

    def file(self, prefix: bytes, entry: os.DirEntry[bytes]) -> None:
        label = self.label(prefix, entry.name)
        if label is None:
            self.ignored.add(prefix, suffix_of(entry.name))
            return
        try:
            status = entry.stat()
        except OSError as error:
            if error.errno in NOTHING_THERE:
                self.ignored.add(prefix, "links to nothing")
            elif prefix not in self.unreadable:
                self.unreadable.append(prefix)
            return
        if not stat.S_ISREG(status.st_mode):
            self.ignored.add(prefix, "pipes or devices")
            return
        if self.is_refused(prefix, entry):
            return
        self.images[prefix] += 1
        times = wrapped(status.st_mtime_ns), wrapped(status.st_ctime_ns)
        self.rows.append((prefix + entry.name, status.st_size, *times, *label))


class ObjectWalk:
    """Walks the prefixes of an object store and collects rows as `Walk` does, with a digest as the last column.

    nameless: prefixes with keys whose next name is empty (`cats//1.png`).
    """

    def __init__(self, root: Remote, label: Labeller):
        self.root = root
        self.label = label
        self.rows = GrowingTable(SCAN_SCHEMA.append(pa.field("digest", pa.binary(32))))
        self.images: Counter[bytes] = Counter()
        self.ignored = Ignored()
        self.unreadable: list[bytes] = []
        self.system: list[bytes] = []
        self.outside: list[bytes] = []  # an object store has no links
        self.nameless: list[bytes] = []
        self.has_links = False
        self.first_folders: list[bytes] = []

    def folders(self) -> None:
        waiting = [b""]
        while waiting:
            waiting += self.folder(waiting.pop())

    def folder(self, prefix: bytes) -> list[bytes]:
        """Add the objects of one prefix and return the prefixes in it."""
        folders = []
        where = f"{self.root.path}/{os.fsdecode(prefix)}".rstrip("/")
        try:
            found = self.root.fs.ls(where, detail=True)
        except FileNotFoundError:
            return []
        except OSError:
            self.unreadable.append(prefix)
            return []
        for info in found:
            if info["type"] == "directory" and info["name"].rstrip("/") == where:
                self.nameless.append(prefix)  # fsspec cannot list its content
                continue
            name = os.fsencode(info["name"].rstrip("/").rpartition("/")[2])
            if info["type"] == "directory":
                if is_of_system(name):
                    self.system.append(prefix + name)
                elif not is_hidden(name):
                    folders.append(prefix + name + b"/")
            elif not info["name"].endswith("/"):  # such a key marks an empty folder
                self.file(prefix, name, info)
        if not prefix:
            self.first_folders = [folder[:-1] for folder in folders]
        return folders

    def file(self, prefix: bytes, name: bytes, info: Mapping) -> None:
        label = self.label(prefix, name)
        if label is None:
            self.ignored.add(prefix, suffix_of(name))
            return
        moment = info.get("LastModified") or info.get("mtime")
        written_ns = wrapped(int(moment.timestamp() * 1e9)) if moment else 0
        self.images[prefix] += 1
        self.rows.append((prefix + name, info["size"], written_ns, written_ns, *label, identity(info)))
