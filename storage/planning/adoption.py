"""Adoption: count rows of intact shards as done, though the newest version does not list the shards."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import StorageError, StoreDamaged
from storage.layout import Store
from storage.manifest.segments import in_order, rows_of
from storage.manifest.versions import Version, read_version, version_numbers
from storage.planning.rows import Missing, has_missing
from storage.schemas import DIGEST
from storage.shards.inventory import footer_ref, is_intact, unlisted_shards
from storage.shards.shard import Shard, ShardRef
from storage.shards.view_ids import PLAIN, indices_of, of_view, variants_of, views_in_version, with_augmentation

logger = logging.getLogger(__name__)


def adoptable_shards(
    store: Store, shards: Mapping[str, ShardRef], missing: Missing, augmentation: str, retried: Collection[bytes]
) -> list[ShardRef]:
    """Intact shards, other than `shards`, that hold a missing row or record why a plain row is missing.

    If an older version lists a shard, that version's rows decide, so that after a compaction no old shard is opened.
    Any other shard is opened, and hashed only if it is useful. retried: see `has_missing`.
    """
    names = unlisted_shards(store, shards)
    names = {name: names[name] for name in names.keys() - _known_useless(store, names, missing, augmentation)}
    return intact_shards(store, names, lambda shard: has_missing(shard, missing, augmentation, retried))


def intact_shards(store: Store, names: Mapping[str, int], is_useful: Callable[[Shard], bool]) -> list[ShardRef]:
    """The shards that are useful and whose sha256 is the one in their name.

    names: name → size in bytes. Skips a damaged shard with a warning. One shard is open at a time.
    """
    found = []
    for name, size_bytes in sorted(names.items()):
        try:
            ref = footer_ref(store, name, size_bytes)
            if ref and is_useful(Shard(store, ref)) and is_intact(store, ref):
                found.append(ref)
        except StoreDamaged as error:
            logger.warning("%s; ignored", str(error).removesuffix(f"; {store.way_out}"))
    return found


def _known_useless(store: Store, names: Collection[str], missing: Missing, augmentation: str) -> set[str]:
    """The shards that some version lists, without a missing row among that version's rows.

    Their errors are useless too: the file table of that version has the outcome of those images.
    """
    useless: set[str] = set()
    for version, known in _versions_of(store, names):
        with suppress(StorageError):  # if the rows are unreadable, the shards are opened instead
            useless |= known - _shards_with(version.read_rows(store), version, known, missing, augmentation)
    return useless


def _versions_of(store: Store, names: Collection[str]) -> Iterator[tuple[Version, set[str]]]:
    """Yield each version that lists some of the shards, with those. A shard comes with the newest such version."""
    left = set(names)
    for number in reversed(version_numbers(store)):
        if not left:
            return
        with suppress(StorageError):  # an unreadable version says nothing about its shards
            version = read_version(store, number)
            if known := left & version.shards.keys():
                left -= known
                yield version, known


def _shards_with(rows: pa.Table, version: Version, names: set[str], missing: Missing, augmentation: str) -> set[str]:
    """The shards among `names` in which the version has a missing row."""
    is_there = pc.is_in(rows["shard"], pa.array(list(names), pa.string()))
    rows = rows.filter(pc.and_(is_there, pc.is_in(rows["digest"], pa.array(list(missing), DIGEST))))
    views = rows["view"].to_numpy()
    columns = (
        rows["digest"].to_pylist(),
        variants_of(views).tolist(),
        indices_of(views).tolist(),
        rows["shard"].to_pylist(),
    )
    return {
        shard
        for digest, variant, index, shard in zip(*columns, strict=True)
        if variant in missing[digest] and (variant == PLAIN or version.augmentations[index] == augmentation)
    }


def add_rows(
    store: Store,
    rows: pa.Table,
    shards: Mapping[str, ShardRef],
    new: Iterable[ShardRef],
    augmentations: tuple[str, ...] = (),
) -> tuple[pa.Table, dict[str, ShardRef], dict[bytes, str], tuple[str, ...]]:
    """Add the rows of new shards for each (digest, view) that has none yet.

    augmentations: those that the views of `rows` index. Returns the rows, the shards, the failures that the new shards
    record (digest → reason), and the augmentations, to which the shards may append.
    One shard is open at a time, because a first run may have written more than a process may open.
    """
    have = {view: set(of_view(rows, view)["digest"].to_pylist()) for view in pc.unique(rows["view"]).to_pylist()}
    shards, parts = dict(shards), [rows]
    failures: dict[bytes, str] = {}
    for ref in sorted(new, key=lambda ref: ref.name):
        shard = Shard(store, ref)
        known = with_augmentation(augmentations, shard.augmentation, store) if shard.augmentation else augmentations
        views = views_in_version(known, shard.augmentation, shard.views()).tolist()
        fresh = [
            (digest, view, index)
            for index, (digest, view) in enumerate(zip(shard.digests(), views, strict=True))
            if digest not in have.get(view, ())
        ]
        if not fresh and not shard.errors():
            continue
        shards[ref.name] = ref
        failures |= shard.errors()
        augmentations = known if any(view for _, view, _ in fresh) else augmentations
        for digest, view, _ in fresh:
            have.setdefault(view, set()).add(digest)
        parts.append(rows_of(ref.name, fresh))
    return in_order(pa.concat_tables(parts)), shards, failures, augmentations
