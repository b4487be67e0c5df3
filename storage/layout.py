"""The paths of a store and of one feature space.

    <root>/<fingerprint>/space.json, shards/, segments/, versions/, aside/
    <root>/heads/, <root>/cache/, <root>/lock

docs/store.md describes each.
"""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from storage.backend.paths import Place, is_local
from storage.errors import StoreDamaged
from storage.records import sha256

FORMAT_VERSION = 1
ROWS_PER_GROUP = 128  # a row group is the unit of reading from a shard
SHARD_NAME = re.compile(r"[0-9a-f]{64}\.(parquet|npz)")
SEGMENT_NAME = re.compile(r"(files|rows|corrections)-[0-9a-f]{64}\.parquet")
FINGERPRINT = re.compile(r"[0-9a-f]{32}")
HEAD_NAME = re.compile(r"[0-9a-f]{32}")


def machine_cache() -> Path:
    """The folder of this machine's user for what may be deleted at the cost of time.

    A relative XDG_CACHE_HOME is ignored, as its specification demands: children and servers have other working folders.
    """
    given, home = Path(os.environ.get("XDG_CACHE_HOME", "")), os.path.expanduser("~")  # `~` for a user without a home
    return (given if given.is_absolute() else Path("/" if home == "~" else home) / ".cache") / "extract-and-train"


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
        """The folder in which new files are written before they get their names. Dead runs leave files here."""
        return self.space / "aside"

    @property
    def heads(self) -> Place:
        return self.root / "heads"

    @property
    def cache(self) -> Path:
        """The cache folder: in the store, or in a folder of this machine if the store is an object store."""
        if is_local(self.root):
            return self.root / "cache"
        return machine_cache() / sha256(str(self.root).encode())[:16]

    @property
    def plans(self) -> Path:
        """The folder in which the steps of a run pass tables to each other."""
        return self.cache / "plans"

    @property
    def way_out(self) -> str:
        """The advice of an error message about a damaged store."""
        return self._way_out("repair")

    @property
    def deep_way_out(self) -> str:
        """The advice for damage that only a read of every byte finds: the advised command must find it too."""
        return self._way_out("repair --deep")

    def _way_out(self, command: str) -> str:
        return f"run `{self.command(command)}`: the next run then extracts only what is lost"

    def command(self, command: str) -> str:
        """A command of `python -m storage` on this store, to type in a shell."""
        return f"python -m storage {command} --store {shlex.quote(str(self.root))}"

    def shard(self, name: str) -> Place:
        """The path of a shard. Raises StoreDamaged if the name is invalid, before it builds a path from it."""
        if not SHARD_NAME.fullmatch(name):
            raise StoreDamaged(f"{name!r} is not a valid name of a shard")
        return self.shards / name[:2] / name

    def segment(self, name: str) -> Place:
        """The path of a segment. Raises StoreDamaged if the name is invalid."""
        if not SEGMENT_NAME.fullmatch(name):
            raise StoreDamaged(f"{name!r} is not a valid name of a segment")
        return self.segments / name

    def version(self, number: int) -> Place:
        """The path of a version."""
        return self.versions / f"{number:020d}.json"

    def head(self, name: str) -> Place:
        """The folder of a head. Raises StoreDamaged if the name is invalid."""
        if not HEAD_NAME.fullmatch(name):
            raise StoreDamaged(f"{name!r} is not a valid name of a head")
        return self.heads / name


def unset_current(store: Store) -> None:
    """Remove the mark of the current head. The heads stay."""
    (store.heads / "current").unlink(missing_ok=True)
