"""Repair: commit a version of all that is left after files were lost or damaged. A run extracts the rest again."""

import logging
from dataclasses import dataclass, replace
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import StorageError, StoreDamaged
from storage.heads.pins import pinned_version, unpin
from storage.heads.registry import list_heads
from storage.layout import Store
from storage.maintenance.verify import segment_fault, shard_fault
from storage.manifest.file_table import KnownFailures, with_status
from storage.manifest.kept_weights import check_kept, forget_weights
from storage.manifest.segments import in_order, read_segments
from storage.manifest.space import read_spec
from storage.manifest.versions import Version, commit, read_version, version_numbers
from storage.planning.adoption import add_rows
from storage.schemas import FILES_SCHEMA, ROWS_SCHEMA
from storage.shards.shard import ShardRef
from storage.shards.view_ids import plain

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repair:
    """The result of a repair.

    version: the committed version; None if the newest version was intact. lost_rows: images whose features a run must
    extract again. lost_variants: rows of other views lost with their shards. unlisted: images lost from the file table,
    which the next scan finds. dropped: removed versions, which could not be read in full.
    """

    version: int | None
    lost_rows: int
    lost_variants: int
    unlisted: int
    dropped: tuple[int, ...]


def repair_space(store: Store, is_deep: bool) -> Repair:
    """Commit what is readable of the newest readable version, and remove the rest. The caller must hold the lock.

    If a segment of rows is lost, the shards supply the rows. If a segment of files is lost, the next scan finds the
    images. Afterwards `verify` finds no fault, and a run extracts exactly what was lost.
    """
    _repair_spec(store)
    _repair_weights(store, is_deep)
    numbers = version_numbers(store)
    versions = {number: version for number in numbers if (version := _readable(store, number))}
    bad = _damaged(store, list(versions.values()), is_deep)
    newest = versions[max(versions)] if versions else None
    is_whole = newest is not None and newest.number == numbers[-1] and not _parts_of(newest) & bad
    made, salvage = None, None
    if newest is not None and not is_whole:
        salvage = _salvage(store, newest, bad)
        files, rows, corrected = (_without(names, bad) for names in (newest.files, newest.rows, newest.corrections))
        parent = replace(newest, files=files, rows=rows, corrections=corrected)
        content = salvage.files, salvage.rows, salvage.shards, salvage.augmentations
        version = commit(store, parent, *content, number=numbers[-1] + 1)
        made = version.number
        bad -= _parts_of(version)  # the commit may have written a damaged segment anew
    dropped = tuple(number for number in numbers if number not in versions or _parts_of(versions[number]) & bad)
    for number in dropped:
        store.version(number).unlink()
    for name in bad:
        path = store.segments / name if "-" in name else store.shard(name)
        path.unlink(missing_ok=True)
    if salvage is None:
        return Repair(made, 0, 0, 0, dropped)
    return Repair(made, salvage.lost_rows, salvage.lost_variants, salvage.unlisted, dropped)


def _readable(store: Store, number: int) -> Version | None:
    try:
        return read_version(store, number)
    except StoreDamaged as error:  # a version of an unknown format raises InputError, which stops the repair
        _log_fault(store, error)
        return None


def _log_fault(store: Store, fault: StorageError) -> None:
    """Log a fault without its advice, because the advice is to run this repair."""
    logger.warning("%s", str(fault).removesuffix(f"; {store.way_out}").removesuffix(f"; {store.deep_way_out}"))


def _parts_of(version: Version) -> set[str]:
    return {*version.segments, *version.shards}


def _without(names: tuple[str, ...], bad: set[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in bad)


def _damaged(store: Store, versions: list[Version], is_deep: bool) -> set[str]:
    """The names of the unreadable segments and shards of these versions."""
    kinds = {name: kind for version in versions for name, kind in version.segments.items()}
    refs: set[ShardRef] = set(chain.from_iterable(version.shards.values() for version in versions))
    faults = {name: segment_fault(store, kind, name) for name, kind in kinds.items()}
    faults |= {ref.name: shard_fault(store, ref, is_deep) for ref in refs}
    for fault in filter(None, faults.values()):
        _log_fault(store, fault)
    return {name for name, fault in faults.items() if fault}


@dataclass(frozen=True)
class Salvage:
    """What is left of a version without its damaged parts: the content to commit, and counts of lost rows and files."""

    files: pa.Table
    rows: pa.Table
    shards: dict[str, ShardRef]
    augmentations: tuple[str, ...]
    lost_rows: int
    lost_variants: int
    unlisted: int


def _salvage(store: Store, version: Version, bad: set[str]) -> Salvage:
    files = read_segments(store, "files", _without(version.files, bad))
    shards = {name: ref for name, ref in version.shards.items() if name not in bad}
    augmentations = version.augmentations
    there = in_order(read_segments(store, "rows", _without(version.rows, bad)))
    rows = there.filter(pc.is_in(there["shard"], pa.array(list(shards), pa.string())))
    lost_variants = there.num_rows - plain(there).num_rows - (rows.num_rows - plain(rows).num_rows)
    if any(name in bad for name in version.rows):
        rows, _, _, augmentations = add_rows(store, rows, {}, shards.values(), augmentations)
    before = pc.sum(pc.equal(files["status"], "ok")).as_py() or 0
    known, has_row = KnownFailures(), plain(rows)["digest"].combine_chunks()
    known.add(files)
    files = with_status(files.select(FILES_SCHEMA.names), has_row, known.failures, known.variant_failures)
    lost_rows = before - (pc.sum(pc.equal(files["status"], "ok")).as_py() or 0)
    unlisted = version.counts["images"] - files.num_rows
    return Salvage(files, rows.cast(ROWS_SCHEMA), shards, augmentations, lost_rows, lost_variants, unlisted)


def _repair_spec(store: Store) -> None:
    """Remove a damaged spec. The next run writes it anew."""
    path = store.space / "space.json"
    try:
        read_spec(store)
    except StoreDamaged as error:
        _log_fault(store, error)
        path.unlink(missing_ok=True)


def _repair_weights(store: Store, is_deep: bool) -> None:
    """Remove a damaged record or copy of the weights. The next run that has the weights keeps them again."""
    try:
        check_kept(store, is_deep)
    except StoreDamaged as error:
        _log_fault(store, error)
        forget_weights(store)


def repair_heads(root: Store, is_deep: bool) -> tuple[int, int]:
    """Remove the records of damaged heads, so that the next run trains them again, and damaged pins.

    Returns the number of heads and of pins.
    """
    damaged = [head for head in list_heads(root.root, is_deep) if head.fault and not head.is_unfinished]
    for head in damaged:
        logger.warning("head %s: %s", head.name, head.fault)
        (root.head(head.name) / "head.json").unlink(missing_ok=True)
    current = root.heads / "current"
    if current.exists() and not any(head.is_current and not head.fault for head in list_heads(root.root)):
        current.unlink()  # a lost head must not keep a new one from becoming current
    return len(damaged), sum(_repair_pin(root, head.name) for head in list_heads(root.root))


def _repair_pin(root: Store, name: str) -> bool:
    try:
        pinned_version(root, name)
    except StoreDamaged as error:
        _log_fault(root, error)
        unpin(root, name)
        return True
    return False
