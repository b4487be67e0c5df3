"""The difference between what lies in the folder now and what the newest version says."""

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.files import FILES_SCHEMA, PENDING, derived_split


@dataclass(frozen=True)
class Changes:
    """Images by what happened to them since the parent version; every live one is in one of the first five."""

    new: int = 0
    changed: int = 0
    moved: int = 0
    relabelled: int = 0
    unchanged: int = 0
    removed: int = 0


def compare(
    listed: pa.Table, before: pa.Table, unreadable: tuple[bytes, ...], validation_fraction: float
) -> tuple[pa.Table, Changes]:
    """The files as they stand now, and what happened to them.

    listed: the files of a listing. before: FILES_SCHEMA of the parent. unreadable: folders that could
    not be listed, whose files stay as they were. The result is FILES_SCHEMA sorted by path, every
    status still `pending`.
    """
    files = _with_history(_with_splits(listed, validation_fraction), before)
    files = _with_unseen(files, before, unreadable)
    return files, _count_changes(files, before)


def _with_splits(files: pa.Table, validation_fraction: float) -> pa.Table:
    """Fill in the split where the folders give none; a file without a digest goes to train."""
    splits = files["split"].to_pylist()
    digests = files["digest"].to_pylist()
    filled = [
        split or (derived_split(digest, validation_fraction) if digest else "train")
        for split, digest in zip(splits, digests, strict=True)
    ]
    index = files.schema.get_field_index("split")
    return files.set_column(index, "split", pa.array(filled, pa.string()))


def _with_history(files: pa.Table, before: pa.Table) -> pa.Table:
    """FILES_SCHEMA for a listing: times and attempts go on where the same path stood before."""
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
    """Which files were there before with the same values; two digests that could not be read are the same."""
    result = pc.is_valid(then["path"])
    for name in names:
        both_null = pc.and_(pc.is_null(files[name]), pc.is_null(then[name]))
        result = pc.and_(result, pc.or_(both_null, pc.fill_null(pc.equal(files[name], then[name]), False)))
    return result.combine_chunks()


def _with_unseen(files: pa.Table, before: pa.Table, unreadable: tuple[bytes, ...]) -> pa.Table:
    """Keep what the parent knew of folders that could not be listed this time."""
    if not unreadable:
        return files
    gone = before.filter(pc.invert(pc.is_in(before["path"], files["path"].combine_chunks())))
    unseen = np.array([path.startswith(unreadable) for path in gone["path"].to_pylist()], bool)
    return pa.concat_tables([files, gone.filter(pa.array(unseen))]).sort_by("path").combine_chunks()


def _count_changes(files: pa.Table, before: pa.Table) -> Changes:
    """Sort every live image into new, changed, moved, relabelled or unchanged, and count the removed.

    A path that is new here pairs with a path that is gone with the same digest: the image moved, or
    was relabelled where its class is another.
    """
    position = pc.index_in(files["path"].combine_chunks(), before["path"].combine_chunks())
    then = before.take(position)
    was_there = position.is_valid()
    same_bytes = _same(files, then, "digest")
    same_label = _same(files, then, "digest", "class")
    unchanged = _same(files, then, "digest", "class", "split")
    changed = pc.and_not(was_there, same_bytes)
    relabelled = pc.and_not(same_bytes, same_label)
    moved = pc.and_not(same_label, unchanged)

    arrived = files.filter(pc.invert(was_there)).select(["digest", "class"]).to_pylist()
    gone = before.filter(pc.invert(pc.is_in(before["path"], files["path"].combine_chunks())))
    left: dict[bytes, Counter[str]] = {}
    for row in gone.select(["digest", "class"]).to_pylist():
        left.setdefault(row["digest"], Counter())[row["class"]] += 1
    num_moved, others = 0, []
    for row in arrived:
        if row["digest"] and left.get(row["digest"], Counter())[row["class"]] > 0:
            left[row["digest"]][row["class"]] -= 1
            num_moved += 1
        else:
            others.append(row["digest"])
    remaining = {digest: classes.total() for digest, classes in left.items()}
    num_relabelled = 0
    for digest in others:
        if digest and remaining.get(digest, 0) > 0:
            remaining[digest] -= 1
            num_relabelled += 1
    return Changes(
        new=len(others) - num_relabelled,
        changed=_true(changed),
        moved=num_moved + _true(moved),
        relabelled=num_relabelled + _true(relabelled),
        unchanged=_true(unchanged),
        removed=sum(remaining.values()),
    )


def _true(mask: pa.Array) -> int:
    return pc.sum(mask).as_py() or 0
