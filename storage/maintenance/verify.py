"""Verification: check every file of a store against what the store records about it. Changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.paths import Place
from storage.errors import BytesDamaged, StorageError, StoreDamaged
from storage.heads.pins import pinned_version
from storage.heads.registry import PIN, list_heads
from storage.layout import ROWS_PER_GROUP, Store
from storage.manifest.file_table import class_counts, counts, data_digest, usable
from storage.manifest.kept_weights import RECORD, check_kept
from storage.manifest.segments import read_segments
from storage.manifest.space import read_spec
from storage.manifest.versions import Version, read_version, version_numbers
from storage.records import file_sha256
from storage.shards.shard import Shard, ShardRef
from storage.shards.view_ids import PLAIN, plain, views_in_version


@dataclass(frozen=True)
class Finding:
    """A faulty file of the store.

    file: its path relative to the store's root. is_deep: only a read of every byte finds the fault.
    """

    file: str
    fault: str
    is_deep: bool = False


def verify_space(store: Store, is_deep: bool) -> Iterator[Finding]:
    """Yield the faults of a feature space: of its spec, each version, and each segment and shard that a version names.

    Reads versions and segments whole. Reads the footer and the digests of a shard, or every byte if `is_deep`. Also
    checks that the newest version agrees with its own segments and shards.
    """
    yield from _space_faults(store, is_deep)
    versions: list[Version] = []
    for number in version_numbers(store):
        try:
            versions.append(read_version(store, number))
        except StorageError as error:
            yield _finding(store, store.version(number), error)
    for kind in ("files", "rows", "corrections"):
        for name in sorted({name for version in versions for name in getattr(version, kind)}):
            if fault := segment_fault(store, kind, name):
                yield _finding(store, store.segments / name, fault)
    for ref in sorted({ref for version in versions for ref in version.shards.values()}, key=lambda ref: ref.name):
        if fault := shard_fault(store, ref, is_deep):
            yield _finding(store, store.shard(ref.name), fault)
    if versions:
        yield from _contradictions(store, versions[-1])


def verify_heads(root: Store, is_deep: bool) -> Iterator[Finding]:
    """Yield the faults of a store's heads. `is_deep` also checks their models. An unfinished training is no fault."""
    heads = list_heads(root.root, is_deep)
    for head in heads:
        if head.fault and not head.is_unfinished:
            found = _finding(root, root.head(head.name) / head.faulty_file, head.fault)
            yield replace(found, is_deep=head.is_deep)
        try:
            pinned_version(root, head.name)
        except StoreDamaged as error:
            yield _finding(root, root.head(head.name) / PIN, error)
    path = root.heads / "current"
    if path.exists() and not any(head.is_current for head in heads):
        yield _finding(root, path, "it does not name a head of this store")


def _finding(store: Store, path: Place, fault: StorageError | str) -> Finding:
    text = str(fault).partition("; run `")[0]
    return Finding(str(path).removeprefix(f"{store.root}/"), text, isinstance(fault, BytesDamaged))


def _space_faults(store: Store, is_deep: bool) -> Iterator[Finding]:
    try:
        read_spec(store)
    except StorageError as error:
        yield _finding(store, store.space / "space.json", error)
    try:
        check_kept(store, is_deep)
    except StorageError as error:
        yield _finding(store, store.space / RECORD, error)


def segment_fault(store: Store, kind: str, name: str) -> StorageError | None:
    """The error of reading a segment; None if it is intact."""
    try:
        read_segments(store, kind, (name,))
    except StorageError as error:
        return error
    return None


def shard_fault(store: Store, ref: ShardRef, is_deep: bool) -> StorageError | None:
    """The error of reading a shard; None if it is intact. is_deep: read every byte."""
    try:
        shard = Shard(store, ref)
        shard.digests()
        shard.views()
        shard.errors()
        if is_deep:
            for group in range(-(-ref.num_rows // ROWS_PER_GROUP)):
                shard.read_group(group)
            if file_sha256(store.shard(ref.name)) != ref.name.partition(".")[0]:
                text = f"shard {ref.name} is damaged (its sha256 does not match its name)"
                raise BytesDamaged(f"{text}; {store.deep_way_out}")
    except StorageError as error:
        return error
    return None


def _contradictions(store: Store, version: Version) -> Iterator[Finding]:
    """Yield the contradictions between a readable version and its own segments and shards."""
    try:
        files, rows = version.read_files(store), version.read_rows(store)
    except StoreDamaged:
        return  # already reported
    found = {
        "counts": (counts(files), version.counts),
        "data_digest": (data_digest(files), version.data_digest),
        "classes": (class_counts(files), {(s, c): n for s, of in version.classes.items() for c, n in of.items()}),
        "order of files": (files["path"].to_pylist(), sorted(set(files["path"].to_pylist()))),
        "features of usable images": (_without_rows(files, rows), 0),
        "rows": (sum(_wrong_rows(store, version, rows)), 0),
    }
    for name, (here, there) in found.items():
        if here != there:
            yield _finding(
                store, store.version(version.number), f"its record of {name} does not match its segments and shards"
            )


def _without_rows(files: pa.Table, rows: pa.Table) -> int:
    has_row = pc.is_in(usable(files)["digest"], plain(rows)["digest"].combine_chunks())
    return len(has_row) - (pc.sum(has_row).as_py() or 0)


def _wrong_rows(store: Store, version: Version, rows: pa.Table) -> Iterator[int]:
    """Yield for each readable shard the number of rows whose digest or view differs from the table of rows."""
    for name in pc.unique(rows["shard"]).to_pylist():
        here = rows.filter(pc.equal(rows["shard"], name))
        ref = version.shards.get(name)
        if ref is None:
            yield here.num_rows
        elif shard_fault(store, ref, is_deep=False) is None:
            there = dict(enumerate(_views_in(Shard(store, ref), version)))
            found = zip(here["digest"].to_pylist(), here["view"].to_pylist(), strict=True)
            yield sum(there.get(row) != pair for row, pair in zip(here["row"].to_pylist(), found, strict=True))


def _views_in(shard: Shard, version: Version) -> Iterator[tuple[bytes, int | None]]:
    """(digest, view) of each row of a shard, in the version's view numbers; view None if the version lists none."""
    known, variants = version.augmentations, shard.views()
    if shard.augmentation and shard.augmentation not in known:
        views = [PLAIN if variant == PLAIN else None for variant in variants.tolist()]
    else:
        views = views_in_version(known, shard.augmentation, variants).tolist()
    return zip(shard.digests(), views, strict=True)
