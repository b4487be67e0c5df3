"""Compaction: rewrite small shards, and shards with unused rows, as few full ones."""

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

# What the encoding adds; all else in a shard's metadata tells how its rows were made.
OWN_FACTS = ("dtype", "shape", "errors")
Row = tuple[bytes, int, np.ndarray]  # digest, view, features


ROWS_A_SHARD = 256


@dataclass(frozen=True)
class CompactOptions:
    """rows: of a full shard. dead_fraction: the part of a shard's rows, one at least, that no image uses once the shard is
    rewritten. drop_variants: leave out the augmented variants of all images. Raises InputError for what no shard can have.
    """

    rows: int = ROWS_A_SHARD
    dead_fraction: float = 0.0
    drop_variants: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= MAX_ROWS:
            raise InputError(f"--rows: 1 to {MAX_ROWS} rows a shard, got {self.rows}")
        if not 0 <= self.dead_fraction <= 1:
            raise InputError(f"--dead-fraction: 0 to 1, got {self.dead_fraction}")


DEFAULTS = CompactOptions()


@dataclass(frozen=True)
class Compaction:
    """What a compaction did: shards that were rewritten, those they became, dead rows and variants that were left out."""

    version: int
    rewritten: int
    written: int
    dead_rows: int
    variants: int


@dataclass(frozen=True)
class Alike:
    """Rows that come together: made in the same way, in one format, all plain or of one augmentation.

    shards: those that they lie in. rows: ROWS_SCHEMA. facts: the metadata that their new shards will have.
    """

    shards: tuple[ShardRef, ...]
    rows: pa.Table
    facts: dict[str, str]
    format: Format


def compact(store: Store, version: Version, options: CompactOptions = DEFAULTS) -> Compaction | None:
    """Commit a version whose small shards are merged and whose dead rows are gone; None where there is nothing to gain.

    A shard is rewritten if it has less than half of `rows` and fewer shards come of it, if no image uses
    `dead_fraction` of its rows, one at least, or if it has variants that are to be dropped. Only rows made in the same way
    come together, and plain ones apart from variants. The files of the old shards stay until gc removes them: versions
    and trainings that read them go on. For the holder of the lock.
    """
    files, rows = version.read_files(store), version.read_rows(store)
    live = rows.filter(pc.is_in(rows["digest"], pc.unique(files["digest"].combine_chunks().drop_null())))
    variants = rows.filter(pc.not_equal(rows["view"], PLAIN)) if options.drop_variants else rows.slice(0, 0)
    wanted = plain(live) if options.drop_variants else live
    due = _due(version, wanted, options.dead_fraction) | set(variants["shard"].to_pylist())
    groups = _gaining(store, version, wanted, due, options.rows)
    picked = {ref.name for group in groups for ref in group.shards}
    if not picked:
        return None
    kept = rows.filter(pc.invert(pc.is_in(rows["shard"], pa.array(list(picked), pa.string()))))
    shards = {name: ref for name, ref in version.shards.items() if name not in picked}
    parts = [kept]
    for group in groups:
        for ref, found in _rewritten(store, group, options.rows):
            shards[ref.name] = ref
            parts.append(rows_of(ref.name, found))
    augmentations = () if options.drop_variants else version.augmentations
    made = commit(store, version, files, in_order(pa.concat_tables(parts)), shards, augmentations)
    dead = rows.num_rows - variants.num_rows - sum(part.num_rows for part in parts)
    return Compaction(made.number, len(picked), len(parts) - 1, dead, variants.num_rows)


def _due(version: Version, wanted: pa.Table, dead_fraction: float) -> set[str]:
    """The shards with so many rows that are not wanted that they have to go."""
    counted = {row["values"]: row["counts"] for row in pc.value_counts(wanted["shard"]).to_pylist()}
    dead = {name: ref.num_rows - counted.get(name, 0) for name, ref in version.shards.items()}
    return {name for name, ref in version.shards.items() if dead[name] >= max(1, dead_fraction * ref.num_rows)}


def _gaining(store: Store, version: Version, wanted: pa.Table, due: set[str], rows_per_shard: int) -> list[Alike]:
    """The groups to rewrite: those that become fewer shards, or have one that is due."""
    made: dict[tuple, list[ShardRef]] = {}
    for name, ref in sorted(version.shards.items()):
        if name in due or ref.num_rows < rows_per_shard / 2:
            made.setdefault((name.rpartition(".")[2], *sorted(_facts(Shard(store, ref)).items())), []).append(ref)
    groups: list[Alike] = []
    for (format, *_), refs in made.items():
        found = _alike(store, version, refs, wanted, format)
        needed = sum(-(-group.rows.num_rows // rows_per_shard) for group in found)
        if needed < len(refs) or any(ref.name in due for ref in refs):
            groups += found
    return groups


def _alike(store: Store, version: Version, refs: list[ShardRef], wanted: pa.Table, format: Format) -> list[Alike]:
    """The wanted rows of shards made in the same way: the plain ones, which may be none, and those of each augmentation."""
    facts = _facts(Shard(store, refs[0]))
    rows = wanted.filter(pc.is_in(wanted["shard"], pa.array([ref.name for ref in refs], pa.string())))
    views = rows["view"].to_numpy()
    variants = np.where(views == PLAIN, -1, indices_of(views).astype(np.int64))
    groups = []
    for index in np.union1d(variants, [-1]).tolist():
        of_what = {} if index < 0 else {AUGMENTATION: version.augmentations[index]}
        mine = rows.filter(pa.array(variants == index))
        groups.append(Alike(tuple(refs), mine, facts | of_what, format))
    return groups


def _facts(shard: Shard) -> dict[str, str]:
    return {name: value for name, value in shard.metadata.items() if name not in (*OWN_FACTS, AUGMENTATION)}


def _rewritten(
    store: Store, group: Alike, rows_per_shard: int
) -> Iterator[tuple[ShardRef, list[tuple[bytes, int, int]]]]:
    """Write rows as full shards, each with where its rows lie; a full shard and a row group are in memory at a time."""
    rows: list[Row] = []
    for row in _rows(store, group):
        rows.append(row)
        if len(rows) == rows_per_shard:
            yield _written(store, group, rows)
            rows = []
    if rows:
        yield _written(store, group, rows)


def _written(store: Store, group: Alike, rows: list[Row]) -> tuple[ShardRef, list[tuple[bytes, int, int]]]:
    """A shard of rows, in which they lie by variant."""
    variants = variants_of(np.array([view for _, view, _ in rows], np.uint16))
    rows = [rows[index] for index in np.argsort(variants, kind="stable")]
    digests, views, features = zip(*rows, strict=True)
    ref = write_shard(store, digests, np.stack(features), {}, group.facts, group.format, np.sort(variants))
    return ref, list(zip(digests, views, range(len(rows)), strict=True))


def _rows(store: Store, group: Alike) -> Iterator[Row]:
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
