"""The sample table: the rows of a pinned version that a training reads, eight bytes per sample, memory-mapped."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.atomic import replace
from storage.layout import ROWS_PER_GROUP, Store
from storage.manifest.file_table import usable
from storage.manifest.versions import Version
from storage.reading.order import VIEWS, mix
from storage.shards.shard import ShardRef
from storage.shards.view_ids import of_view, plain, views_of

logger = logging.getLogger(__name__)

SAMPLE = np.dtype([("shard", "<u4"), ("row", "<u2"), ("class", "<u2")])
SHARD_PLACES = 65_536  # a row number is a u16; a multiple of ROWS_PER_GROUP


def places(samples: np.ndarray) -> np.ndarray:
    """(n,) int64: where the row of each SAMPLE record lies, as shard * SHARD_PLACES + row."""
    return samples["shard"].astype(np.int64) * SHARD_PLACES + samples["row"]


@dataclass(frozen=True)
class SampleTable:
    """The samples of one split.

    samples: SAMPLE records sorted by (shard, row); `class` is an index into `classes`. shards: the
    shard of each shard index. An image that lies in the folder twice is two samples.
    """

    samples: np.ndarray
    shards: tuple[ShardRef, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def of_pass(self, seed: int | None, number: int) -> "SampleTable":
        """What a pass over the samples reads: always this."""
        return self

    def group_starts(self) -> np.ndarray:
        """Where each run of samples of one row group begins, with the number of samples at the end."""
        groups = places(self.samples) // ROWS_PER_GROUP
        return np.append(np.flatnonzero(np.diff(groups, prepend=-1)), len(groups))


@dataclass(frozen=True)
class ViewTable:
    """The samples of one split in several views, of which each pass takes one.

    samples: (views, n) SAMPLE records: where each view of each sample lies; view 0 are the plain features, which also stand
    for a view that a sample has not. images: (n,) u64, the beginning of each image's digest. shards, classes: as of a SampleTable.
    """

    samples: np.ndarray
    images: np.ndarray
    shards: tuple[ShardRef, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return self.samples.shape[1]

    def of_pass(self, seed: int | None, number: int) -> SampleTable:
        """One view of each sample, drawn by hash of the seed, the pass and the image's digest."""
        views = mix(seed or 0, number, VIEWS, self.images) % np.uint64(len(self.samples))
        samples = np.take_along_axis(self.samples, views[None].astype(np.int64), axis=0)[0]
        return SampleTable(samples[sample_order(samples)], self.shards, self.classes)


def pin(store: Store, version: Version, split: str, classes: tuple[str, ...], folder: Path) -> SampleTable:
    """The sample table of a split, written to `folder` as `samples-<split>.npy` and mapped.

    Files of other classes than `classes` are left out.
    """
    table = sample_table(store, version, split, classes)
    return SampleTable(_mapped(folder / f"samples-{split}.npy", table.samples), table.shards, classes)


def pin_views(
    store: Store, version: Version, split: str, classes: tuple[str, ...], folder: Path, augmentation: str, variants: int
) -> ViewTable:
    """The samples of a split in `variants` views, the plain one counted, mapped as `pin` does.

    augmentation: the text that the others are of; a warning tells of samples that lack some of them.
    """
    files, rows = split_files(store, version, split, classes), version.read_rows(store)
    shards, plain_samples = sampled(version, files, plain(rows), classes)
    samples = np.repeat(plain_samples[None], variants, axis=0)
    for k, (there, has_it) in enumerate(_variants(version, files, rows, augmentation, variants), 1):
        samples[k, has_it.to_numpy()] = sampled(version, files.filter(has_it), there, classes)[1]
        if lacking := len(has_it) - pc.sum(has_it).as_py():
            logger.warning("%d of %d images have no variant %d: it is as they are", lacking, len(has_it), k)
    images = np.array([int.from_bytes(digest[:8], "little") for digest in files["digest"].to_pylist()], np.uint64)
    samples, images = (
        _mapped(folder / name, array) for name, array in (("views.npy", samples), ("images.npy", images))
    )
    return ViewTable(samples, images, shards, classes)


def _variants(
    version: Version, files: pa.Table, rows: pa.Table, augmentation: str, variants: int
) -> Iterator[tuple[pa.Table, pa.ChunkedArray]]:
    """The rows of each variant from the first on, and which of the files have one of them."""
    for view in views_of(version.augmentations, augmentation, variants)[1:]:
        there = of_view(rows, view) if view is not None else rows.slice(0, 0)
        yield there, pc.is_in(files["digest"], there["digest"].combine_chunks())


@dataclass(frozen=True)
class Lacking:
    """Samples of a training that have not all their views: how many, and a name of which images lack which. Empty: none."""

    samples: int = 0
    digest: str = ""


def lacking_views(
    store: Store, version: Version, split: str, classes: tuple[str, ...], augmentation: str, variants: int
) -> Lacking:
    """What the samples of a split lack of `variants` views, the plain one counted."""
    files, rows = split_files(store, version, split, classes), version.read_rows(store)
    lacks_any, hasher = np.zeros(files.num_rows, bool), hashlib.sha256()
    for _, has_it in _variants(version, files, rows, augmentation, variants):
        lacks_it = pc.invert(has_it)
        digests = sorted(set(files["digest"].filter(lacks_it).to_pylist()))
        hasher.update(len(digests).to_bytes(8, "big") + b"".join(digests))
        lacks_any |= lacks_it.to_numpy()
    count = int(lacks_any.sum())
    return Lacking(count, hasher.hexdigest()) if count else Lacking()


def _mapped(path: Path, array: np.ndarray) -> np.ndarray:
    """The array, written to a file and mapped."""
    sink = pa.BufferOutputStream()
    np.lib.format.write_array(sink, array, allow_pickle=False)
    replace(path, sink.getvalue().to_pybytes())
    return np.load(path, mmap_mode="r" if array.size else None, allow_pickle=False)


def sample_table(store: Store, version: Version, split: str, classes: tuple[str, ...]) -> SampleTable:
    """The sample table of a split, in memory."""
    shards, samples = sample_rows(store, version, split, classes)
    return SampleTable(samples[sample_order(samples)], shards, classes)


def table_of(store: Store, version: Version, files: pa.Table, classes: tuple[str, ...]) -> tuple[pa.Table, SampleTable]:
    """Those of the files that have features in the version, which may be of another space, and their sample table.

    files: of these classes, as `split_files` of any version has them.
    """
    rows = plain(version.read_rows(store))
    files = files.filter(pc.is_in(files["digest"], rows["digest"].combine_chunks()))
    shards, samples = sampled(version, files, rows, classes)
    return files, SampleTable(samples[sample_order(samples)], shards, classes)


def sample_rows(
    store: Store, version: Version, split: str, classes: tuple[str, ...]
) -> tuple[tuple[ShardRef, ...], np.ndarray]:
    """The shards of a version in order of name, and SAMPLE records of a split's usable files in order of path.

    Files of other classes than `classes` are left out.
    """
    return sampled(version, split_files(store, version, split, classes), plain(version.read_rows(store)), classes)


def split_files(store: Store, version: Version, split: str, classes: tuple[str, ...]) -> pa.Table:
    """The usable files of a split that are of one of the classes, in order of path."""
    files = usable(version.read_files(store))
    is_wanted = pc.is_in(files["class"], pa.array(classes, pa.string()))
    return files.filter(pc.and_(pc.equal(files["split"], split), is_wanted))


def sampled(
    version: Version, files: pa.Table, rows: pa.Table, classes: tuple[str, ...]
) -> tuple[tuple[ShardRef, ...], np.ndarray]:
    """The shards of a version in order of name, and SAMPLE records of the files, each of which has one of the rows."""
    at = rows.take(pc.index_in(files["digest"].combine_chunks(), rows["digest"].combine_chunks()))
    names = sorted(version.shards)
    samples = np.empty(files.num_rows, SAMPLE)
    samples["shard"] = pc.index_in(at["shard"].combine_chunks(), pa.array(names, pa.string())).to_numpy()
    samples["row"] = at["row"].to_numpy()
    index = {name: number for number, name in enumerate(classes)}
    samples["class"] = [index[name] for name in files["class"].to_pylist()]
    return tuple(version.shards[name] for name in names), samples


def sample_order(samples: np.ndarray) -> np.ndarray:
    """What sorts SAMPLE records by (shard, row, class)."""
    return np.lexsort((samples["class"], samples["row"], samples["shard"]))
