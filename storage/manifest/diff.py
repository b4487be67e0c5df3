"""Compare the listed files, or those of a version, with another version."""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.manifest.file_table import PENDING
from storage.merge_join import merge_join
from storage.schemas import FILES_SCHEMA
from storage.source.splits import derived_split

KINDS = ("new", "changed", "moved", "re-split", "relabelled", "unchanged")
NEW, CHANGED, MOVED, RESPLIT, RELABELLED, UNCHANGED = range(len(KINDS))
SAME_BYTES = ("digest",)
SAME_LABEL = ("digest", "class")
SAME_SPLIT = ("digest", "class", "split")
KEYS_SCHEMA = pa.schema([FILES_SCHEMA.field(name) for name in SAME_LABEL])


@dataclass(frozen=True)
class Changes:
    """Counts of images by what happened to them since the parent version.

    Each live image counts in exactly one of the first five fields. from_test: images at the same path that have left
    the test split.
    """

    new: int = 0
    changed: int = 0
    moved: int = 0
    relabelled: int = 0
    unchanged: int = 0
    removed: int = 0
    from_test: int = 0


def compare(
    listed: pa.Table, before: Iterable[pa.Table], unreadable: tuple[bytes, ...], validation_fraction: float
) -> tuple[pa.Table, Changes]:
    """Return the current files and the changes since the parent version.

    listed: the files of a listing, sorted by path. before: the segments of the parent's files in order; memory holds
    one at a time. unreadable: folders that could not be listed; their files stay as they were. An unreadable file of
    unchanged size and time keeps its digest too.
    The table has FILES_SCHEMA, sorted by path. Listed files have the status `pending`.
    """
    parts = [FILES_SCHEMA.empty_table()]
    counted, from_test = dict.fromkeys(range(len(KINDS)), 0), 0
    arrived, gone = [KEYS_SCHEMA.empty_table()], [KEYS_SCHEMA.empty_table()]
    for part, then in merge_join(listed, before, FILES_SCHEMA):
        files = _with_history(_with_splits(_with_known_bytes(part, then), validation_fraction), then)
        files = _with_unseen(files, then, unreadable)
        kinds, origin = _kinds(files, then)
        for kind in counted:
            counted[kind] += int((kinds == kind).sum())
        stayed = origin >= 0
        was_test = _numpy(pc.equal(then["split"].take(pa.array(origin[stayed])), "test"))
        from_test += int((was_test & ~_numpy(pc.equal(files["split"].filter(pa.array(stayed)), "test"))).sum())
        arrived.append(files.select(SAME_LABEL).filter(pa.array(kinds == NEW)).cast(KEYS_SCHEMA))
        gone.append(then.select(SAME_LABEL).take(pa.array(_unmatched(origin, then.num_rows))).cast(KEYS_SCHEMA))
        parts.append(files)
    changes = _changes(counted, pa.concat_tables(arrived), pa.concat_tables(gone))
    return pa.concat_tables(parts).combine_chunks(), replace(changes, from_test=from_test)


def _changes(counted: dict[int, int], arrived: pa.Table, gone: pa.Table) -> Changes:
    """Pair the arrived files with those gone and count the files of each kind. A changed split counts as moved."""
    removed = gone.num_rows
    # Only files with equal bytes on the other side can pair. Most have none, so this filter saves the loop below.
    can_pair = pc.is_in(arrived["digest"], gone["digest"].combine_chunks().drop_null())
    new, left = _rows(arrived.filter(can_pair)), _rows(gone)
    for names, kind in ((2, MOVED), (1, RELABELLED)):
        found = _match([row[:names] for row in new], [row[:names] for row in left]) if new else np.empty((0, 2), int)
        counted[kind] += len(found)
        counted[NEW] -= len(found)
        removed -= len(found)
        taken = [set(column) for column in found.T.tolist()]
        left = [row for index, row in enumerate(left) if index not in taken[0]]
        new = [row for index, row in enumerate(new) if index not in taken[1]]
    return Changes(
        new=counted[NEW],
        changed=counted[CHANGED],
        moved=counted[MOVED] + counted[RESPLIT],
        relabelled=counted[RELABELLED],
        unchanged=counted[UNCHANGED],
        removed=removed,
    )


def _rows(keys: pa.Table) -> list[tuple]:
    return list(zip(*keys.to_pydict().values(), strict=True))


def _with_known_bytes(listed: pa.Table, before: pa.Table) -> pa.Table:
    """Keep the known digest of an unreadable file whose size and time are unchanged.

    A network share that fails for a night must not empty the data set.
    """
    then = before.take(pc.index_in(listed["path"].combine_chunks(), before["path"].combine_chunks()))
    is_known = pc.and_(_same(listed, then, "size", "mtime_ns"), pc.is_null(listed["digest"]).combine_chunks())
    digest = pc.if_else(is_known, then["digest"].combine_chunks(), listed["digest"].combine_chunks())
    reason = pc.if_else(pc.is_valid(digest), pa.scalar(None, pa.string()), listed["reason"].combine_chunks())
    for name, column in (("digest", digest), ("reason", reason)):
        listed = listed.set_column(listed.schema.get_field_index(name), name, column)
    return listed


def _with_splits(files: pa.Table, validation_fraction: float) -> pa.Table:
    """Derive the split from the digest where the folders give none. A file without a digest goes to train."""
    splits = files["split"].to_pylist()
    digests = files["digest"].to_pylist()
    filled = [
        split or (derived_split(digest, validation_fraction) if digest else "train")
        for split, digest in zip(splits, digests, strict=True)
    ]
    index = files.schema.get_field_index("split")
    return files.set_column(index, "split", pa.array(filled, pa.string()))


def _with_history(files: pa.Table, before: pa.Table) -> pa.Table:
    """Extend a listing to FILES_SCHEMA. A file carries over times and attempts from the same path in `before`."""
    now = time.time_ns()
    then = before.take(pc.index_in(files["path"].combine_chunks(), before["path"].combine_chunks()))
    is_same = _same(files, then, "digest", "class", "split")
    zeros = pa.array(np.zeros(files.num_rows, np.int64))
    same_bytes = _same(files, then, "digest")
    columns = {
        "status": pa.array([PENDING] * files.num_rows, pa.string()),
        "attempts": pc.if_else(same_bytes, then["attempts"].cast(pa.int64()), zeros).cast(pa.int32()),
        "first_seen_ns": pc.fill_null(then["first_seen_ns"], now),
        "last_seen_ns": pc.if_else(is_same, then["last_seen_ns"], now),
    }
    for name in FILES_SCHEMA.names:
        columns.setdefault(name, files[name] if name in files.schema.names else None)
    return pa.table([columns[name] for name in FILES_SCHEMA.names], schema=FILES_SCHEMA)


def _same(files: pa.Table, then: pa.Table, *names: str) -> pa.Array:
    """Mask of the files whose row in `then` has the same values in the columns `names`. Two nulls are equal."""
    result = pc.is_valid(then["path"])
    for name in names:
        both_null = pc.and_(pc.is_null(files[name]), pc.is_null(then[name]))
        result = pc.and_(result, pc.or_(both_null, pc.fill_null(pc.equal(files[name], then[name]), False)))
    return result.combine_chunks()


def _with_unseen(files: pa.Table, before: pa.Table, unreadable: tuple[bytes, ...]) -> pa.Table:
    """Keep the parent's files in folders that could not be listed this time."""
    if not unreadable:
        return files
    gone = before.filter(pc.invert(pc.is_in(before["path"], files["path"].combine_chunks())))
    unseen = np.array([path.startswith(unreadable) for path in gone["path"].to_pylist()], bool)
    return pa.concat_tables([files, gone.filter(pa.array(unseen))]).sort_by("path").combine_chunks()


def pairs(files: pa.Table, before: pa.Table) -> dict[str, np.ndarray]:
    """Pair the files of two tables. Returns kind → (n, 2) row numbers in `before` and in `files`.

    A file pairs with the one at its path. A new path pairs with one that is gone and has the same digest and class
    (`moved`), or else only the same digest (`relabelled`). Without a partner, a file is `new` (-1, row) or `removed`
    (row, -1). Both tables have FILES_SCHEMA sorted by path; the rows of a kind keep that order.
    Swapping the tables swaps the two columns, and `new` with `removed`.
    """
    kinds, origin = _kinds(files, before)
    gone = _unmatched(origin, before.num_rows)
    for names, kind in ((SAME_LABEL, MOVED), (SAME_BYTES, RELABELLED)):
        arrived = np.flatnonzero(kinds == NEW)
        found = _match(_keys(files, arrived, names), _keys(before, gone, names))
        kinds[arrived[found[:, 1]]], origin[arrived[found[:, 1]]] = kind, gone[found[:, 0]]
        gone = np.delete(gone, found[:, 0])
    by_kind = {kind: np.flatnonzero(kinds == kind) for kind in range(len(KINDS))}
    result = {KINDS[kind]: np.stack([origin[rows], rows], axis=1) for kind, rows in by_kind.items()}
    return result | {"removed": np.stack([gone, np.full_like(gone, -1)], axis=1)}


def _kinds(files: pa.Table, before: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """For each file, the kind judged by its path alone, and its row in `before`, -1 for a new path."""
    position = pc.index_in(files["path"].combine_chunks(), before["path"].combine_chunks())
    then = before.take(position)
    origin = pc.fill_null(position, -1).to_numpy().astype(np.int64)
    kinds = np.select(
        [origin < 0, *(~_numpy(_same(files, then, *names)) for names in (SAME_BYTES, SAME_LABEL, SAME_SPLIT))],
        [NEW, CHANGED, RELABELLED, RESPLIT],
        UNCHANGED,
    )
    return kinds, origin


def _unmatched(origin: np.ndarray, num_rows: int) -> np.ndarray:
    """The row numbers of a table that are not in `origin`."""
    return np.setdiff1d(np.arange(num_rows), origin)


def difference(files: pa.Table, before: pa.Table) -> dict[str, np.ndarray]:
    """The `pairs` of two versions' files. Pairs that differ only in status or reason have the kind `status`."""
    result = pairs(files, before)
    stayed = result["unchanged"]
    now, then = files.take(pa.array(stayed[:, 1])), before.take(pa.array(stayed[:, 0]))
    same_status = _numpy(_same(now, then, "status", "reason"))
    return result | {"unchanged": stayed[same_status], "status": stayed[~same_status]}


def _keys(files: pa.Table, rows: np.ndarray, names: tuple[str, ...]) -> list[tuple]:
    columns = files.select(names).take(pa.array(rows)).to_pydict().values()
    return list(zip(*columns, strict=True))


def _match(arrived: list[tuple], gone: list[tuple]) -> np.ndarray:
    """Pair equal keys in order: (n, 2) positions in `gone` and `arrived`. A file without a digest never pairs."""
    left: dict[tuple, deque[int]] = {}
    for index, key in enumerate(gone):
        left.setdefault(key, deque()).append(index)
    found = [(left[key].popleft(), index) for index, key in enumerate(arrived) if key[0] and left.get(key)]
    return np.array(found, np.int64).reshape(-1, 2)


def _numpy(mask: pa.Array) -> np.ndarray:
    return mask.to_numpy(zero_copy_only=False)
