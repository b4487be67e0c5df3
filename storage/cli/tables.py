"""Format the content of a store as lines of text. Pure functions of records and tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.heads.registry import HeadNote
from storage.manifest.file_table import OK, QUARANTINED
from storage.manifest.findings import class_lines
from storage.manifest.versions import Version
from storage.shards.shard import ShardRef
from storage.shards.view_ids import PLAIN, indices_of, plain, variants_of
from storage.text import columns, count, date, indented, ranges, size, visible

SHOWN_PATHS = 5
COUNTS = ("images", "ok", "pending", "quarantined")
# The kinds of a difference in the order of the output; `unchanged` has no lines.
SHOWN_KINDS = ("new", "changed", "moved", "re-split", "relabelled", "removed", "status")


def spec_lines(spec: Mapping[str, Any]) -> list[str]:
    """The spec of a feature space, one value a line."""
    rest = {name: str(value) for name, value in sorted(spec.items())}
    known = {name: rest.pop(name, "unknown") for name in ("backbone", "image_size", "pooling", "dtype", "precision")}
    side = known["image_size"]
    rows = [
        ("backbone", f"{known['backbone']} without its top, images of {side} x {side} pixels"),
        ("features", f"pooling {known['pooling']}, stored as {known['dtype']}, computed in {known['precision']}"),
        ("weights", rest.pop("weights", "unknown")),
        *rest.items(),
    ]
    return columns([(name, visible(value)) for name, value in rows])


def version_lines(
    version: Version, files: pa.Table, rows: pa.Table, corrections: pa.Table, newest: int, absent: int
) -> list[str]:
    """Describe a version: its counts, usable images by class and split, shards, quarantined images, and corrections.

    files, rows, corrections: the version's tables. newest: the number of the newest version.
    absent: the number of its shards that are missing or have another size.
    """
    standing = "the newest" if version.number == newest else f"the newest is {newest}"
    parts = [f"{version.counts[name]:,} {name}" for name in COUNTS[1:]]
    lines = [
        f"version {version.number} ({standing}), {date(version.created)}",
        f"{count(version.counts['images'], 'image')}: {', '.join(parts)}",
    ]
    for section in (
        class_lines(version.classes),
        [*shard_lines(version.shards, files, rows, absent), *variant_lines(version.augmentations, rows)],
        quarantine_lines(files),
        correction_lines(corrections),
    ):
        lines += ["", *section] if section else []
    return lines


def correction_lines(corrections: pa.Table) -> list[str]:
    """The number of files that were excluded and relabelled, and the first of them."""
    if not corrections.num_rows:
        return []
    excluded = corrections["class"].null_count
    lines = [f"corrections: {count(excluded, 'image')} excluded, {corrections.num_rows - excluded:,} relabelled"]
    for row in corrections.slice(0, SHOWN_PATHS).to_pylist():
        now = "excluded" if row["class"] is None else f"{visible(row['listed'])} → {visible(row['class'])}"
        lines.append(f"  {visible(row['path'])}: {now}")
    return lines + (
        [f"  ... and {corrections.num_rows - SHOWN_PATHS:,} more"] if corrections.num_rows > SHOWN_PATHS else []
    )


def shard_lines(shards: Mapping[str, ShardRef], files: pa.Table, rows: pa.Table, absent: int) -> list[str]:
    """The number of shards, rows and bytes, and of dead rows, which no live image uses."""
    num_rows = sum(ref.num_rows for ref in shards.values())
    size_bytes = sum(ref.size_bytes for ref in shards.values())
    used = pc.sum(pc.is_in(rows["digest"], files["digest"].combine_chunks().drop_null())).as_py() or 0
    is_plain = plain(rows).num_rows == rows.num_rows
    line = f"{count(len(shards), 'shard')}: {count(num_rows, 'row')}, {size(size_bytes)}"
    line += f", {count(round(size_bytes / num_rows), 'byte')} per {'image' if is_plain else 'row'}" if num_rows else ""
    line += f", {count(num_rows - used, 'dead row')}" if num_rows else ""
    if absent:
        return [line, f"{absent:,} of them missing or of the wrong size: the next run extracts their images again"]
    return [line]


def variant_lines(augmentations: Sequence[str], rows: pa.Table) -> list[str]:
    """One line per augmentation: the number of rows that are its variants, and the variant numbers."""
    views = rows["view"].to_numpy()
    views = views[views != PLAIN]
    lines = []
    for index, augmentation in enumerate(augmentations):
        variants = variants_of(views[indices_of(views) == index])
        numbers = ranges(sorted(set(variants.tolist())))
        named = f" (variant {numbers})" if len(variants) else ""
        lines.append(f"{count(len(variants), 'row')} augmented{named} with {visible(augmentation)}")
    return lines


def quarantine_lines(files: pa.Table) -> list[str]:
    """The quarantined images by reason, with the first paths of each."""
    bad = files.filter(pc.equal(files["status"], QUARANTINED))
    counted = {row["values"]: row["counts"] for row in pc.value_counts(bad["reason"]).to_pylist()}
    lines = ["quarantined images"] if counted else []
    for reason in sorted(counted, key=lambda reason: (-counted[reason], reason)):
        paths = bad.filter(pc.equal(bad["reason"], reason))["path"].slice(0, SHOWN_PATHS).to_pylist()
        shown = [visible(path) for path in paths]
        more = [f"... and {counted[reason] - len(paths):,} more"] if counted[reason] > len(paths) else []
        lines += [f"  {visible(reason)}: {counted[reason]:,}", *indented(indented(shown + more))]
    return lines


def head_lines(heads: Sequence[HeadNote]) -> list[str]:
    """The table of the heads of one feature space."""
    if not heads:
        return []
    rows = [["heads", "version", "val_accuracy", "trained", ""]]
    for head in heads:
        current = "current" if head.is_current else ""
        rows.append(
            [f"  {head.name}", str(head.version), f"{head.val_accuracy:.4f}", date(head.created), current],
        )
    return columns(rows, right=" rr")


def fault_lines(heads: Sequence[HeadNote]) -> list[str]:
    """The heads that cannot be used, with the fault of each."""
    rows = [[f"  {head.name}", visible(head.fault or ""), "current" if head.is_current else ""] for head in heads]
    return ["heads that cannot be used", *columns(rows)] if rows else []


def history_lines(entries: Sequence[tuple[Version, dict[str, int] | None, Sequence[ShardRef]]]) -> list[str]:
    """A table with one line per version.

    entries: (version, counts of its changes, new shards). The counts are None if the version's parent is gone.
    """
    rows = [["version", "date", *COUNTS, "changes", "shards added"]]
    for version, changes, shards in entries:
        added = f"{len(shards):,} ({count(sum(ref.num_rows for ref in shards), 'row')})" if shards else "none"
        unknown = f"unknown: version {version.parent} is gone"
        rows.append(
            [
                str(version.number),
                date(version.created),
                *(f"{version.counts[name]:,}" for name in COUNTS),
                unknown if changes is None else change_summary(changes),
                "unknown" if changes is None else added,
            ]
        )
    return columns(rows, right="r rrrr")


def change_summary(changes: Mapping[str, int]) -> str:
    """The counts of a difference as one text, without `unchanged`."""
    parts = [f"{changes[kind]:,} {'only in ' * (kind == 'status')}{kind}" for kind in SHOWN_KINDS if changes[kind]]
    return ", ".join(parts) or "none"


def diff_lines(
    old: Version, new: Version, before: pa.Table, files: pa.Table, found: Mapping[str, np.ndarray], limit: int
) -> list[str]:
    """The difference of two versions: counts, then one line per changed image.

    before, files: FILES_SCHEMA of `old` and `new`. found: their `difference`. limit: the maximum number of lines of
    images; 0 means all.
    """
    rows = [
        [f"version {one.number}", date(one.created), *(f"{one.counts[name]:,}" for name in COUNTS)]
        for one in (old, new)
    ]
    changes = {kind: len(pairs) for kind, pairs in found.items()}
    total = sum(changes[kind] for kind in SHOWN_KINDS)
    lines = [*columns([["", "", *COUNTS], *rows], right="  rrrr"), "", f"changes: {change_summary(changes)}"]
    shown: list[str] = []
    for kind in SHOWN_KINDS:
        left = limit - len(shown) if limit else len(found[kind])
        shown += _lines_of(kind, before, files, found[kind][:left])
    more = [f"... and {total - len(shown):,} more; --limit 0 shows all"] if total > len(shown) else []
    return [*lines, *shown, *more]


def corrected_lines(old: Version, new: Version, before: pa.Table, now: pa.Table) -> list[str]:
    """The corrections of two versions, if they differ. before, now: their tables of CORRECTIONS_SCHEMA."""
    if old.corrections == new.corrections:
        return []
    pairs = [(old, before), (new, now)]
    numbers = [(table["class"].null_count, table.num_rows - table["class"].null_count) for _, table in pairs]
    shown = (
        f"version {one.number} has {excluded:,} excluded and {relabelled:,} relabelled"
        for (one, _), (excluded, relabelled) in zip(pairs, numbers, strict=True)
    )
    return [f"corrections by `exclude` and `relabel`: {'; '.join(shown)}"]


def _lines_of(kind: str, before: pa.Table, files: pa.Table, pairs: np.ndarray) -> Iterator[str]:
    """One line per pair: the kind, the path or both paths, and after a colon what else differs."""
    then, now = (
        table.take(pa.array(rows, mask=rows < 0)).to_pylist()
        for table, rows in ((before, pairs[:, 0]), (files, pairs[:, 1]))
    )
    for old, new in zip(then, now, strict=True):
        paths = [visible(row["path"]) for row in (old, new) if row["path"] is not None]
        path = " → ".join(dict.fromkeys(paths))
        details = ", ".join(_details(old, new))
        yield f"{kind:<10}  {path}{f': {details}' if details else ''}"


def _details(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    if new["path"] is None:
        return
    if old["path"] is None:
        if new["status"] != OK:
            yield _status(new)
        return
    for name in ("class", "split"):
        if old[name] != new[name]:
            yield f"{visible(old[name])} → {visible(new[name])}"
    if _status(old) != _status(new):
        yield f"{_status(old)} → {_status(new)}"


def _status(row: dict[str, Any]) -> str:
    return visible(f"{row['status']} ({row['reason']})" if row["reason"] else row["status"])
