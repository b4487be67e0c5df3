"""Find the rows that exist, those that are missing and those that were lost."""

from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from storage.layout import Store
from storage.manifest.versions import Version
from storage.schemas import ROWS_SCHEMA
from storage.shards.inventory import present_shards
from storage.shards.shard import Shard, ShardRef
from storage.shards.view_ids import PLAIN, of_view

Missing = dict[bytes, list[int]]  # digest → variant numbers k of its missing rows, ascending; k = 0 is the plain row


def missing_rows(
    files: pa.Table,
    rows: pa.Table,
    failures: Collection[bytes],
    variant_failures: Collection[bytes],
    views: Sequence[int | None],
) -> Missing:
    """The missing rows: the plain row of every image, and the variants of training images.

    views: the view in `rows` of each variant number k; None if there is none yet. An image in `failures` has no
    missing row. One in `variant_failures` has no missing variants.
    """
    everywhere = files["digest"].combine_chunks()
    training = files.filter(pc.equal(files["split"], "train"))["digest"].combine_chunks()
    found: Missing = {}
    for variant, view in enumerate(views):
        there = rows.slice(0, 0) if view is None else of_view(rows, view)
        for digest in _without(training if variant else everywhere, there["digest"].combine_chunks()):
            if digest not in failures and not (variant and digest in variant_failures):
                found.setdefault(digest, []).append(variant)
    return dict(sorted(found.items()))


def _without(digests: pa.Array, there: pa.Array) -> list[bytes]:
    """The distinct digests that are not in `there`."""
    each = pc.unique(digests.drop_null())
    return each.filter(pc.invert(pc.is_in(each, there))).to_pylist()


def has_missing(shard: Shard, missing: Missing, augmentation: str, retried: Collection[bytes] = ()) -> bool:
    """Whether a shard has a missing row, or records why a plain row is missing.

    retried: digests of images to retry. The shard's recorded errors do not count for them.
    """
    if any(PLAIN in missing.get(digest, ()) and digest not in retried for digest in shard.errors()):
        return True
    is_of_it = shard.augmentation == augmentation
    pairs = zip(shard.digests(), shard.views().tolist(), strict=True)
    return any(view in missing.get(digest, ()) and (view == PLAIN or is_of_it) for digest, view in pairs)


def present_rows(store: Store, parent: Version | None) -> tuple[pa.Table, dict[str, ShardRef], pa.Table]:
    """The parent's rows whose shard is present, those shards, and the lost rows."""
    if parent is None:
        return ROWS_SCHEMA.empty_table(), {}, ROWS_SCHEMA.empty_table()
    rows = parent.read_rows(store)
    shards = present_shards(store, parent.shards)
    if len(shards) == len(parent.shards):
        return rows, shards, ROWS_SCHEMA.empty_table()
    is_there = pc.is_in(rows["shard"], pa.array(list(shards), pa.string()))
    return rows.filter(is_there).combine_chunks(), shards, rows.filter(pc.invert(is_there))


def count_lost(lost: pa.Table, missing: Missing, views: Sequence[int | None]) -> int:
    """The number of images with a missing row that was lost. views: the view in `lost` of each variant number k."""
    there = set(zip(lost["digest"].to_pylist(), lost["view"].to_pylist(), strict=True))
    return sum(any((digest, views[k]) in there for k in variants) for digest, variants in missing.items())
