"""Compaction: small shards, and those whose rows are mostly of images that are gone, become few full ones."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.digests import DIGEST
from storage.layout import ROWS_PER_GROUP, Store
from storage.segments import ROWS_SCHEMA, in_order
from storage.shards import Format, Shard, ShardRef, write_shard
from storage.versions import Version, commit

# What the encoding adds; all else in a shard's metadata tells how its rows were made.
OWN_FACTS = ("dtype", "shape", "errors")


@dataclass(frozen=True)
class Compaction:
    """What a compaction did: the shards that were rewritten, those they became, and the dead rows left out."""

    version: int
    rewritten: int
    written: int
    dead_rows: int


def compact(store: Store, version: Version, rows_per_shard: int) -> Compaction | None:
    """Commit a version whose small and mostly dead shards are merged; None where there is nothing to gain.

    A shard is rewritten if it has less than half of `rows_per_shard`, or if no image uses half of its rows. Only rows
    made in the same way come together. The files of the old shards stay until gc removes them: versions and
    trainings that read them go on. For the holder of the lock.
    """
    files, rows = version.read_files(store), version.read_rows(store)
    live = rows.filter(pc.is_in(rows["digest"], pc.unique(files["digest"].combine_chunks().drop_null())))
    counted = {row["values"]: row["counts"] for row in pc.value_counts(live["shard"]).to_pylist()}
    picked = {
        name: ref
        for name, ref in version.shards.items()
        if ref.num_rows < rows_per_shard / 2 or counted.get(name, 0) <= ref.num_rows / 2
    }
    groups = _alike(store, picked)
    needed = sum(-(-sum(counted.get(ref.name, 0) for ref in group) // rows_per_shard) for group in groups)
    if needed >= len(picked):
        return None
    kept = rows.filter(pc.invert(pc.is_in(rows["shard"], pa.array(list(picked), pa.string()))))
    shards = {name: ref for name, ref in version.shards.items() if name not in picked}
    parts = [kept]
    for group in groups:
        for ref, digests in _rewritten(store, group, live, rows_per_shard):
            shards[ref.name] = ref
            parts.append(_rows_of(ref, digests))
    made = commit(store, version, files, in_order(pa.concat_tables(parts)), shards)
    dead = rows.num_rows - sum(part.num_rows for part in parts)
    return Compaction(made.number, len(picked), len(parts) - 1, dead)


def _alike(store: Store, shards: dict[str, ShardRef]) -> list[list[ShardRef]]:
    """Shards in groups whose rows were made in the same way and are kept in the same format."""
    groups: dict[tuple, list[ShardRef]] = {}
    for name, ref in sorted(shards.items()):
        groups.setdefault((name.rpartition(".")[2], *sorted(_facts(Shard(store, ref)).items())), []).append(ref)
    return list(groups.values())


def _facts(shard: Shard) -> dict[str, str]:
    return {name: value for name, value in shard.metadata.items() if name not in OWN_FACTS}


def _rewritten(
    store: Store, group: list[ShardRef], live: pa.Table, rows_per_shard: int
) -> Iterator[tuple[ShardRef, list[bytes]]]:
    """Write the live rows of a group of shards as full ones; a full shard and a row group are in memory at a time."""
    digests: list[bytes] = []
    features: list[np.ndarray] = []
    facts = _facts(Shard(store, group[0]))
    format: Format = "npz" if group[0].name.endswith("npz") else "parquet"
    for digest, feature in _live_rows(store, group, live):
        digests.append(digest)
        features.append(feature)
        if len(digests) == rows_per_shard:
            yield write_shard(store, digests, np.stack(features), {}, facts, format), digests
            digests, features = [], []
    if digests:
        yield write_shard(store, digests, np.stack(features), {}, facts, format), digests


def _live_rows(store: Store, group: list[ShardRef], live: pa.Table) -> Iterator[tuple[bytes, np.ndarray]]:
    for ref in group:
        shard = Shard(store, ref)
        mine = live.filter(pc.equal(live["shard"], ref.name)).sort_by("row")
        held, features = -1, np.empty(0)
        for digest, row in zip(mine["digest"].to_pylist(), mine["row"].to_pylist(), strict=True):
            if row // ROWS_PER_GROUP != held:
                held = row // ROWS_PER_GROUP
                features = shard.read_group(held)
            yield digest, features[row % ROWS_PER_GROUP]


def _rows_of(ref: ShardRef, digests: list[bytes]) -> pa.Table:
    count = len(digests)
    columns = [
        pa.array(digests, DIGEST),
        pa.array(np.zeros(count, np.uint16)),
        pa.array([ref.name] * count, pa.string()),
        pa.array(np.arange(count, dtype=np.uint16)),
    ]
    return pa.table(columns, schema=ROWS_SCHEMA)
