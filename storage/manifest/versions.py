"""Versions: what the store contains at one moment. The exclusive creation of the next number commits one."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.atomic import create, sync_folder
from storage.backend.bounded_read import read_whole
from storage.errors import StoreDamaged, VersionConflict
from storage.layout import FORMAT_VERSION, SEGMENT_NAME, SHARD_NAME, Store
from storage.manifest.file_table import class_counts, counts, data_digest
from storage.manifest.segments import in_order, read_segments, write_corrections, write_files, write_rows
from storage.manifest.space import check_format
from storage.manifest.undone import undone, undone_classes
from storage.records import canonical, sealed, sha256, unsealed
from storage.shards.shard import ShardRef
from storage.shards.view_ids import MOST_AUGMENTATIONS, are_listed
from storage.source.precedent import Precedent


@dataclass(frozen=True)
class Version:
    """A committed version. Its tables are read from segments on request.

    files, rows: names of segments. shards: the shards that `rows` point to. augmentations: those of the variants in
    `rows`, in the order in which the store first saw them (storage/shards/view_ids.py). corrections: names of segments of the
    files that a person excluded or relabelled.
    """

    number: int
    commit_id: str
    parent: int
    files: tuple[str, ...]
    rows: tuple[str, ...]
    shards: dict[str, ShardRef]
    counts: dict[str, int]
    classes: dict[str, dict[str, int]]
    data_digest: str
    created: str = field(compare=False)
    augmentations: tuple[str, ...] = ()
    corrections: tuple[str, ...] = ()

    @property
    def segments(self) -> dict[str, str]:
        """The name of each segment → its kind."""
        kinds = {"files": self.files, "rows": self.rows, "corrections": self.corrections}
        return {name: kind for kind, names in kinds.items() for name in names}

    def read_files(self, store: Store) -> pa.Table:
        """The table of files: FILES_SCHEMA, sorted by path."""
        return read_segments(store, "files", self.files)

    def file_segments(self, store: Store) -> Iterator[pa.Table]:
        """Yield the table of files segment by segment. Memory holds one at a time."""
        return (read_segments(store, "files", (name,)) for name in self.files)

    def read_corrections(self, store: Store) -> pa.Table:
        """The files that were excluded or relabelled: CORRECTIONS_SCHEMA, sorted by path."""
        return read_segments(store, "corrections", self.corrections)

    @property
    def pooled_name(self) -> str:
        """The name of the file with its pooled vectors (storage/reading/pooled.py). Versions of equal rows share it."""
        return sha256(canonical({"rows": self.rows}))[:32] + ".pooled"

    def read_rows(self, store: Store) -> pa.Table:
        """The table of rows: ROWS_SCHEMA, sorted by (digest, view).

        Raises StoreDamaged if a row is not in its shard, or a view has an unknown augmentation.
        """
        rows = in_order(read_segments(store, "rows", self.rows))
        at = pc.index_in(rows["shard"], pa.array(list(self.shards), pa.string()))
        size = pc.take(pa.array([ref.num_rows for ref in self.shards.values()], pa.uint32()), at)
        if at.null_count or pc.any(pc.greater_equal(rows["row"].cast(pa.uint32()), size)).as_py():
            raise StoreDamaged(f"version {self.number} lists rows that none of its shards has; {store.way_out}")
        if not are_listed(rows["view"].to_numpy(), self.augmentations):
            raise StoreDamaged(f"version {self.number} lists variants of an unknown augmentation; {store.way_out}")
        return rows


def version_numbers(store: Store) -> list[int]:
    """The numbers of the versions in the store, oldest first."""
    if not store.versions.is_dir():
        return []
    return sorted(int(path.stem) for path in store.versions.glob("[0-9]" * 20 + ".json"))


def latest_version(store: Store) -> Version | None:
    """The newest version; None before the first."""
    numbers = version_numbers(store)
    return read_version(store, numbers[-1]) if numbers else None


def precedent(store: Store) -> Precedent | None:
    """The labels of the newest version, for comparison with a guessed layout; None before the first version.

    Corrections are undone, because they come from no folder.
    """
    version = latest_version(store)
    if version is None:
        return None
    if not version.corrections:
        return Precedent(version.number, version.classes, lambda: version.file_segments(store))
    corrections = version.read_corrections(store)
    classes = undone_classes(version.classes, corrections, version.read_files(store))
    return Precedent(version.number, classes, lambda: undone(version.file_segments(store), corrections))


def read_version(store: Store, number: int) -> Version:
    """Read one version. Its tables are not read.

    Raises StoreDamaged if the version is missing or damaged, InputError if its format is unknown.
    """
    path = store.version(number)
    try:
        record = json.loads(read_whole(path))
        check_format(path, record["format_version"])
        record = unsealed(record)
        del record["format_version"]
        record["shards"] = {name: ShardRef(name, *values) for name, values in record["shards"].items()}
        record["files"], record["rows"] = tuple(record["files"]), tuple(record["rows"])
        record["augmentations"] = tuple(record.get("augmentations", ()))
        record["corrections"] = tuple(record.get("corrections", ()))
        return _checked(Version(**record), number)
    except FileNotFoundError:
        raise StoreDamaged(f"version {number} is missing from {store.versions}; {store.way_out}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreDamaged(f"version {number}, {path}, is damaged ({error}); {store.way_out}") from error


def _checked(version: Version, number: int) -> Version:
    """Return the version if its record is plausible. Opens no other file.

    Raises ValueError or TypeError if the record contradicts itself.
    """
    if version.number != number or not 0 <= version.parent < number:
        raise ValueError(f"it claims number {version.number} and parent {version.parent}")
    for name in version.segments:
        if not SEGMENT_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a valid name of a segment")
    texts = version.augmentations
    if not all(type(text) is str and text.encode() for text in texts) or len(set(texts)) != len(texts):
        raise ValueError("it lists invalid or duplicate augmentations")
    if len(texts) > MOST_AUGMENTATIONS:
        raise ValueError(f"it lists {len(texts)} augmentations, more than {MOST_AUGMENTATIONS}")
    for ref in version.shards.values():
        if not SHARD_NAME.fullmatch(ref.name):
            raise ValueError(f"{ref.name!r} is not a valid name of a shard")
    return version


def differing_files(store: Store, version: Version, other: Version | None) -> tuple[pa.Table, pa.Table]:
    """The files of two versions, without the segments that both share."""
    names, others = version.files, other.files if other else ()
    return (
        read_segments(store, "files", tuple(name for name in names if name not in others)),
        read_segments(store, "files", tuple(name for name in others if name not in names)),
    )


def commit(
    store: Store,
    parent: Version | None,
    files: pa.Table,
    rows: pa.Table,
    shards: dict[str, ShardRef],
    augmentations: tuple[str, ...] | None = None,
    number: int | None = None,
    corrections: pa.Table | None = None,
) -> Version:
    """Commit `files` and `rows` as the next version after `parent`.

    files: FILES_SCHEMA, sorted by path. rows: ROWS_SCHEMA, sorted by (digest, view). shards: every shard of `rows`, each
    of them durable. augmentations: those that the views index; None keeps the parent's. number: the next free number,
    needed if unreadable versions follow `parent`. corrections: CORRECTIONS_SCHEMA, sorted by path; None keeps the parent's.
    Another commit of the same content returns the existing version. Raises VersionConflict if a different one took
    the number.
    """
    number = number or (parent.number if parent else 0) + 1
    if augmentations is None:
        augmentations = parent.augmentations if parent else ()
    content = {"number": number, **_content(store, parent, files, rows, shards)}
    content |= {"augmentations": augmentations} if augmentations else {}
    content |= _corrections(store, parent, corrections)
    for folder in {store.shard(name).parent for name in shards if parent is None or name not in parent.shards}:
        sync_folder(folder)  # a shard that was adopted may have been named by a run that died right then
    record = {
        "format_version": FORMAT_VERSION,
        "commit_id": sha256(canonical(content))[:32],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **content,
    }
    is_ours = create(store.version(number), json.dumps(sealed(record), indent=1).encode(), store.aside)
    version = read_version(store, number)
    if not is_ours and version.commit_id != record["commit_id"]:
        raise VersionConflict(f"another run committed version {number} first; run again to build on it")
    return version


def _corrections(store: Store, parent: Version | None, corrections: pa.Table | None) -> dict[str, Any]:
    """Write the segments of the corrections, None for the parent's, and return their part of the record; empty without any."""
    named = parent.corrections if parent else ()
    if corrections is not None:
        named = tuple(write_corrections(store, corrections, named))
    return {"corrections": named} if named else {}


def _content(
    store: Store, parent: Version | None, files: pa.Table, rows: pa.Table, shards: dict[str, ShardRef]
) -> dict[str, Any]:
    """Write the segments of a version, and return the part of its record that describes its tables."""
    classes: dict[str, dict[str, int]] = {}
    for (split, name), count in class_counts(files).items():
        classes.setdefault(split, {})[name] = count
    return {
        "parent": parent.number if parent else 0,
        "files": write_files(store, files, parent.files if parent else ()),
        "rows": write_rows(store, rows, parent.rows if parent else ()),
        "shards": {name: list(asdict(ref).values())[1:] for name, ref in sorted(shards.items())},
        "counts": counts(files),
        "classes": classes,
        "data_digest": data_digest(files),
    }
