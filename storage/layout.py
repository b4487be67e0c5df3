"""Where everything lies in a store, and what one feature space is.

    <root>/<fingerprint>/space.json, shards/, segments/, versions/, aside/
    <root>/heads/, <root>/cache/, <root>/lock

docs/format.md describes each of them.
"""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from storage.durable import SINGLE_WRITER, create, replace, sweep
from storage.errors import InputError, StoreDamaged
from storage.place import Place, is_local, read_whole

FORMAT_VERSION = 1
ROWS_PER_GROUP = 128  # rows of a shard that are read together
SHARD_NAME = re.compile(r"[0-9a-f]{64}\.(parquet|npz)")
SEGMENT_NAME = re.compile(r"(files|rows)-[0-9a-f]{64}\.parquet")
FINGERPRINT = re.compile(r"[0-9a-f]{32}")
HEAD_NAME = re.compile(r"[0-9a-f]{32}")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Place) -> str:
    """The same of a file, which is read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical(record: Mapping) -> bytes:
    """The one way a record becomes bytes to be hashed: JSON, sorted keys, no spaces, UTF-8."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sealed(record: Mapping) -> dict:
    """The record with a checksum of all of it: a changed digit is noticed by `unsealed`."""
    return {**record, "checksum": sha256(canonical(record))[:32]}


def unsealed(record: Mapping) -> dict:
    """A sealed record without its checksum. Raises ValueError or TypeError where it is not what was written."""
    content = dict(record)
    if content.pop("checksum", None) != sha256(canonical(content))[:32]:
        raise ValueError("its checksum is another")
    return content


def fingerprint(spec: Mapping) -> str:
    """The name of a feature space: 32 hex digits of the sha256 of everything that changes a feature."""
    return sha256(canonical(spec))[:32]


@dataclass(frozen=True)
class Store:
    """The paths of one feature space in the store at `root`."""

    root: Place
    fingerprint: str

    @property
    def space(self) -> Place:
        return self.root / self.fingerprint

    @property
    def shards(self) -> Place:
        return self.space / "shards"

    @property
    def segments(self) -> Place:
        return self.space / "segments"

    @property
    def versions(self) -> Place:
        return self.space / "versions"

    @property
    def aside(self) -> Place:
        """Where files are written before they get their names; what lies here longer is a dead run's."""
        return self.space / "aside"

    @property
    def heads(self) -> Place:
        return self.root / "heads"

    @property
    def cache(self) -> Path:
        """In the store, or, of one in an object store, in a folder of this machine."""
        if is_local(self.root):
            return self.root / "cache"
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return home / "extract-and-train" / sha256(str(self.root).encode())[:16]

    @property
    def plans(self) -> Path:
        """Where the steps of a run hand tables to each other."""
        return self.cache / "plans"

    @property
    def way_out(self) -> str:
        """What to do where a file of the store is not what it should be."""
        return self._way_out("repair")

    @property
    def deep_way_out(self) -> str:
        """The same where only reading every byte finds what is wrong: the advice has to find it again."""
        return self._way_out("repair --deep")

    def _way_out(self, command: str) -> str:
        address = shlex.quote(str(self.root))
        return f"run `python -m storage {command} --store {address}`: only what is lost is extracted again"

    def shard(self, name: str) -> Place:
        """The path of a shard; the name is checked before a path is built from it."""
        if not SHARD_NAME.fullmatch(name):
            raise StoreDamaged(f"{name!r} is not the name of a shard")
        return self.shards / name[:2] / name

    def segment(self, name: str) -> Place:
        if not SEGMENT_NAME.fullmatch(name):
            raise StoreDamaged(f"{name!r} is not the name of a segment")
        return self.segments / name

    def version(self, number: int) -> Place:
        return self.versions / f"{number:020d}.json"

    def head(self, name: str) -> Place:
        if not HEAD_NAME.fullmatch(name):
            raise StoreDamaged(f"{name!r} is not the name of a head")
        return self.heads / name


def check_space(store: Store) -> None:
    """Refuse a space of a format this program does not know. A space that is not there yet is fine."""
    path = store.space / "space.json"
    try:
        found = json.loads(read_whole(path)).get("format_version")
    except FileNotFoundError:
        return
    except (ValueError, AttributeError) as error:
        raise StoreDamaged(f"{path} is not readable as JSON; {store.way_out}") from error
    check_format(path, found)


def check_format(path: Place, found: object) -> None:
    """Refuse a file of a format this program does not know."""
    if found != FORMAT_VERSION:
        raise InputError(
            f"{path} has format_version {found}, this program reads {FORMAT_VERSION}; "
            "use the program that wrote it, or another --store"
        )


def create_space(store: Store, spec: Mapping, is_single_writer: bool = False) -> None:
    """Create the space with its spec, and sweep up what runs that died left half-written.

    is_single_writer: declare, for good, that no two processes ever write this store at a time.
    """
    if is_single_writer and is_local(store.root):
        replace(store.root / SINGLE_WRITER, b"")
    record = {"format_version": FORMAT_VERSION, "spec": dict(spec)}
    create(store.space / "space.json", json.dumps(record, indent=1, sort_keys=True).encode(), store.aside)
    check_space(store)
    if not is_local(store.root):
        return  # nothing is ever half-written there
    for left in store.aside.iterdir():
        left.unlink(missing_ok=True)
    for folder in (store.cache, store.heads, *store.heads.glob("*/")):
        sweep(folder)


def spaces(root: Place) -> list[Store]:
    """The feature spaces in the store at `root`, by fingerprint."""
    if not root.is_dir():
        return []
    return [
        Store(root, path.name) for path in sorted(root.iterdir()) if FINGERPRINT.fullmatch(path.name) and path.is_dir()
    ]


def other_spaces(store: Store) -> list[Store]:
    """The other feature spaces in the same root."""
    return [other for other in spaces(store.root) if other != store]


def read_spec(store: Store) -> dict:
    """The spec of a feature space that is there."""
    check_space(store)
    path = store.space / "space.json"
    try:
        spec = dict(json.loads(read_whole(path))["spec"])
    except FileNotFoundError:
        raise StoreDamaged(f"{path} is missing; run again with the options of this space, which writes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreDamaged(f"{path} holds no spec; {store.way_out}") from error
    if fingerprint(spec) != store.fingerprint:
        raise StoreDamaged(f"{path} is damaged: its spec is of another feature space; {store.way_out}")
    return spec


def current_head(store: Store) -> str | None:
    """The name of the promoted head, None before the first."""
    try:
        name = (store.heads / "current").read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    return name if HEAD_NAME.fullmatch(name) else None


def promote_head(store: Store, name: str) -> None:
    replace(store.heads / "current", f"{store.head(name).name}\n".encode())


def unset_current(store: Store) -> None:
    """Leave the store without a current head."""
    (store.heads / "current").unlink(missing_ok=True)
