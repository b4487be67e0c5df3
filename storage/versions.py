"""Versions: what the store says at one moment, made true by the exclusive creation of the next number."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.digests import DIGEST
from storage.durable import create, put, sync_folder
from storage.errors import StoreDamaged, VersionConflict
from storage.files import FILES_SCHEMA, class_counts, counts, data_digest
from storage.layout import FORMAT_VERSION, Store, canonical, check_format, sha256
from storage.shards import ShardRef

ROWS_SCHEMA = pa.schema(
    [
        pa.field("digest", DIGEST, nullable=False),
        pa.field("view", pa.uint16(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.uint16(), nullable=False),
    ]
)
ROWS_PER_SEGMENT = 8192  # on average; see _cut


@dataclass(frozen=True)
class Version:
    """A committed version; tables are read from its segments when asked for.

    files, rows: names of segments. shards: what is known of each shard that `rows` point to.
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

    def read_files(self, store: Store) -> pa.Table:
        """FILES_SCHEMA, sorted by path."""
        return _read_segments(store, self.files, FILES_SCHEMA)

    def read_rows(self, store: Store) -> pa.Table:
        """ROWS_SCHEMA, sorted by (digest, view)."""
        return _read_segments(store, self.rows, ROWS_SCHEMA)


def _path(store: Store, number: int) -> Path:
    return store.versions / f"{number:020d}.json"


def version_numbers(store: Store) -> list[int]:
    """The versions that are there, oldest first."""
    if not store.versions.is_dir():
        return []
    return sorted(int(path.stem) for path in store.versions.glob("[0-9]" * 20 + ".json"))


def latest_version(store: Store) -> Version | None:
    """The newest version, None before the first."""
    numbers = version_numbers(store)
    return read_version(store, numbers[-1]) if numbers else None


def read_version(store: Store, number: int) -> Version:
    path = _path(store, number)
    try:
        record = json.loads(path.read_text())
        check_format(path, record.pop("format_version"))
        record["shards"] = {name: ShardRef(name, *values) for name, values in record["shards"].items()}
        record["files"], record["rows"] = tuple(record["files"]), tuple(record["rows"])
        return Version(**record)
    except FileNotFoundError:
        raise StoreDamaged(f"there is no version {number} in {store.space}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreDamaged(
            f"{path} is damaged ({error}); delete it to go back to the version before it, and run again"
        ) from error


def differing_files(store: Store, version: Version, other: Version | None) -> tuple[pa.Table, pa.Table]:
    """The files of two versions without the segments that both have, whose rows are the same in each."""
    names, others = version.files, other.files if other else ()
    return (
        _read_segments(store, tuple(name for name in names if name not in others), FILES_SCHEMA),
        _read_segments(store, tuple(name for name in others if name not in names), FILES_SCHEMA),
    )


def commit(
    store: Store, parent: Version | None, files: pa.Table, rows: pa.Table, shards: dict[str, ShardRef]
) -> Version:
    """Make `files` and `rows` the next version after `parent`.

    files: FILES_SCHEMA sorted by path. rows: ROWS_SCHEMA sorted by (digest, view), every shard of it in
    `shards` and durable. Committing the same again gives the version that is there; raises
    VersionConflict where another commit took the number.
    """
    path_keys = [_hash32(path) for path in files["path"].to_pylist()]
    file_segments = _write_segments(store, "files", files, path_keys)
    row_keys = [int.from_bytes(digest[-4:], "big") for digest in rows["digest"].to_pylist()]
    row_segments = _write_segments(store, "rows", rows, row_keys)
    for folder in {store.shard(name).parent for name in shards if parent is None or name not in parent.shards}:
        sync_folder(folder)  # a shard that was adopted may have been named by a run that died right then
    number = parent.number + 1 if parent else 1
    classes: dict[str, dict[str, int]] = {}
    for (split, name), count in class_counts(files).items():
        classes.setdefault(split, {})[name] = count
    content = {
        "number": number,
        "parent": number - 1,
        "files": file_segments,
        "rows": row_segments,
        "shards": {name: list(asdict(ref).values())[1:] for name, ref in sorted(shards.items())},
        "counts": counts(files),
        "classes": classes,
        "data_digest": data_digest(files),
    }
    record = {
        "format_version": FORMAT_VERSION,
        "commit_id": sha256(canonical(content))[:32],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **content,
    }
    is_ours = create(_path(store, number), json.dumps(record, indent=1).encode(), store.aside)
    version = read_version(store, number)
    if not is_ours and version.commit_id != record["commit_id"]:
        raise VersionConflict(f"another run committed version {number} first; run again to build on it")
    return version


def _hash32(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "big")


def _cut(keys: list[int]) -> Iterator[tuple[int, int]]:
    """Cut a sorted table into segments at rows whose key says so.

    The cuts depend on each row alone, so a change moves only the cuts beside it, and every other
    segment keeps its bytes and its name.
    """
    ends = np.flatnonzero(np.array(keys, np.int64) % ROWS_PER_SEGMENT == 0) + 1
    starts = [0, *ends.tolist()]
    for start, stop in zip(starts, [*starts[1:], len(keys)], strict=True):
        if start < stop:
            yield start, stop


def _write_segments(store: Store, kind: str, table: pa.Table, keys: list[int]) -> list[str]:
    names = []
    for start, stop in _cut(keys):
        sink = pa.BufferOutputStream()
        pq.write_table(
            table.slice(start, stop - start).combine_chunks(),
            sink,
            use_dictionary=["class", "split", "status", "reason", "shard"],
            compression="zstd",
            write_page_checksum=True,
        )
        data = sink.getvalue().to_pybytes()
        names.append(f"{kind}-{sha256(data)}.parquet")
        put(store.segments / names[-1], data, store.aside)
    return names


def _read_segments(store: Store, names: tuple[str, ...], schema: pa.Schema) -> pa.Table:
    tables = []
    for name in names:
        try:
            data = (store.segments / Path(name).name).read_bytes()
        except FileNotFoundError:
            raise StoreDamaged(f"segment {name} is missing from {store.segments}; {_way_out(store)}") from None
        if sha256(data) != name.rpartition("-")[2].removesuffix(".parquet"):
            raise StoreDamaged(f"segment {name} is damaged: its sha256 is not the one in its name; {_way_out(store)}")
        tables.append(pq.read_table(pa.BufferReader(data)).cast(schema))
    return pa.concat_tables(tables).combine_chunks() if tables else schema.empty_table()


def _way_out(store: Store) -> str:
    return f"delete {store.versions} and run again: features are taken from the shards, and none is extracted that is there"
