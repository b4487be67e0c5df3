"""Compaction: merge small shards, and shards with unused rows, into few full ones."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import InputError
from storage.layout import ROWS_PER_GROUP, Store
from storage.manifest.segments import in_order, rows_of
from storage.manifest.versions import Version, commit
from storage.shards.shard import AUGMENTATION, MAX_ROWS, Format, Shard, ShardRef, write_shard
from storage.shards.view_ids import PLAIN, indices_of, plain, variants_of

# Metadata that the encoding adds. All other metadata of a shard says how its rows were made.
ENCODING_KEYS = ("dtype", "shape", "errors")
Row = tuple[bytes, int, np.ndarray]  # digest, view, features


ROWS_A_SHARD = 256


@dataclass(frozen=True)
class CompactOptions:
    """Options of a compaction. Raises InputError for values out of range.

    rows: rows of a full shard. dead_fraction: a shard is rewritten if at least this fraction of its rows, and at least
    one row, is dead. drop_variants: drop the augmented variants of all images.
    """

    rows: int = ROWS_A_SHARD
    dead_fraction: float = 0.0
    drop_variants: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= MAX_ROWS:
            raise InputError(f"`rows`: expected 1 to {MAX_ROWS} rows per shard, got {self.rows}")
        if not 0 <= self.dead_fraction <= 1:
            raise InputError(f"`dead_fraction`: expected 0 to 1, got {self.dead_fraction}")


DEFAULTS = CompactOptions()


@dataclass(frozen=True)
class Compaction:
    """The result of a compaction.

    version: the committed version. rewritten: old shards that were replaced. written: new shards. dead_rows, variants:
    rows that were dropped.
    """

    version: int
    rewritten: int
    written: int
    dead_rows: int
    variants: int


@dataclass(frozen=True)
class MergeGroup:
    """Rows that may share a shard: made in the same way, in one format, all plain or all of one augmentation.

    shards: the shards that hold them. rows: ROWS_SCHEMA. metadata: the metadata of their new shards.
    """

    shards: tuple[ShardRef, ...]
    rows: pa.Table
    metadata: dict[str, str]
    format: Format


def compact(store: Store, version: Version, options: CompactOptions = DEFAULTS) -> Compaction | None:
    """Commit a version with small shards merged and dead rows dropped. Returns None if there is nothing to gain.

    A shard is rewritten if it has fewer than half of `rows` and the merge yields fewer shards; if at least
    `dead_fraction` of its rows, and at least one row, is dead; or if it has variants to drop. Only rows made in the
    same way share a shard, and plain rows never share one with variants. The old shards' files stay until gc removes
    them, so that versions and trainings can still read them. The caller must hold the lock.
    """
    files, rows = version.read_files(store), version.read_rows(store)
    live = rows.filter(pc.is_in(rows["digest"], pc.unique(files["digest"].combine_chunks().drop_null())))
    variants = rows.filter(pc.not_equal(rows["view"], PLAIN)) if options.drop_variants else rows.slice(0, 0)
    if options.drop_variants:
        live = plain(live)
    must_rewrite = _with_dead_rows(version, live, options.dead_fraction) | set(variants["shard"].to_pylist())
    groups = _groups_to_rewrite(store, version, live, must_rewrite, options.rows)
    picked = {ref.name for group in groups for ref in group.shards}
    if not picked:
        return None
    untouched = rows.filter(pc.invert(pc.is_in(rows["shard"], pa.array(list(picked), pa.string()))))
    shards = {name: ref for name, ref in version.shards.items() if name not in picked}
    parts = [untouched]
    for group in groups:
        for ref, found in _write_shards(store, group, options.rows):
            shards[ref.name] = ref
            parts.append(rows_of(ref.name, found))
    augmentations = () if options.drop_variants else version.augmentations
    made = commit(store, version, files, in_order(pa.concat_tables(parts)), shards, augmentations)
    dead = rows.num_rows - variants.num_rows - sum(part.num_rows for part in parts)
    return Compaction(made.number, len(picked), len(parts) - 1, dead, variants.num_rows)


def _with_dead_rows(version: Version, live: pa.Table, dead_fraction: float) -> set[str]:
    """The shards whose fraction of dead rows requires a rewrite."""
    counted = {row["values"]: row["counts"] for row in pc.value_counts(live["shard"]).to_pylist()}
    dead = {name: ref.num_rows - counted.get(name, 0) for name, ref in version.shards.items()}
    return {name for name, ref in version.shards.items() if dead[name] >= max(1, dead_fraction * ref.num_rows)}


def _groups_to_rewrite(
    store: Store, version: Version, live: pa.Table, must_rewrite: set[str], rows_per_shard: int
) -> list[MergeGroup]:
    """The groups to rewrite: those that become fewer shards, or contain a shard in `must_rewrite`."""
    made: dict[tuple, list[ShardRef]] = {}
    for name, ref in sorted(version.shards.items()):
        if name in must_rewrite or ref.num_rows < rows_per_shard / 2:
            made.setdefault((name.rpartition(".")[2], *sorted(_metadata(Shard(store, ref)).items())), []).append(ref)
    groups: list[MergeGroup] = []
    for (format, *_), refs in made.items():
        found = _merge_groups(store, version, refs, live, format)
        needed = sum(-(-group.rows.num_rows // rows_per_shard) for group in found)
        if needed < len(refs) or any(ref.name in must_rewrite for ref in refs):
            groups += found
    return groups


def _merge_groups(
    store: Store, version: Version, refs: list[ShardRef], live: pa.Table, format: Format
) -> list[MergeGroup]:
    """Group the live rows of shards that were made in the same way.

    One group has the plain rows, maybe none. Each augmentation has a further group.
    """
    metadata = _metadata(Shard(store, refs[0]))
    rows = live.filter(pc.is_in(live["shard"], pa.array([ref.name for ref in refs], pa.string())))
    views = rows["view"].to_numpy()
    variants = np.where(views == PLAIN, -1, indices_of(views).astype(np.int64))
    groups = []
    for index in np.union1d(variants, [-1]).tolist():
        of_what = {} if index < 0 else {AUGMENTATION: version.augmentations[index]}
        mine = rows.filter(pa.array(variants == index))
        groups.append(MergeGroup(tuple(refs), mine, metadata | of_what, format))
    return groups


def _metadata(shard: Shard) -> dict[str, str]:
    """How the rows of a shard were made, without the augmentation of its variants."""
    return {name: value for name, value in shard.metadata.items() if name not in (*ENCODING_KEYS, AUGMENTATION)}


def _write_shards(
    store: Store, group: MergeGroup, rows_per_shard: int
) -> Iterator[tuple[ShardRef, list[tuple[bytes, int, int]]]]:
    """Write a group's rows as full shards. Yields each new shard with (digest, view, row) of its rows.

    Memory holds one full shard and one row group at a time.
    """
    rows: list[Row] = []
    for row in _rows(store, group):
        rows.append(row)
        if len(rows) == rows_per_shard:
            yield _write_shard(store, group, rows)
            rows = []
    if rows:
        yield _write_shard(store, group, rows)


def _write_shard(store: Store, group: MergeGroup, rows: list[Row]) -> tuple[ShardRef, list[tuple[bytes, int, int]]]:
    """Write one shard with the rows sorted by variant."""
    variants = variants_of(np.array([view for _, view, _ in rows], np.uint16))
    rows = [rows[index] for index in np.argsort(variants, kind="stable")]
    digests, views, features = zip(*rows, strict=True)
    ref = write_shard(store, digests, np.stack(features), {}, group.metadata, group.format, np.sort(variants))
    return ref, list(zip(digests, views, range(len(rows)), strict=True))


def _rows(store: Store, group: MergeGroup) -> Iterator[Row]:
    for ref in group.shards:
        shard = Shard(store, ref)
        mine = group.rows.filter(pc.equal(group.rows["shard"], ref.name)).sort_by("row")
        held, features = -1, np.empty(0)
        columns = (mine[name].to_pylist() for name in ("digest", "view", "row"))
        for digest, view, row in zip(*columns, strict=True):
            if row // ROWS_PER_GROUP != held:
                held = row // ROWS_PER_GROUP
                features = shard.read_group(held)
            yield digest, view, features[row % ROWS_PER_GROUP]
