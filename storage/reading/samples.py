"""The sample table: the rows of a pinned version that a training reads, memory-mapped, eight bytes per sample."""

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
from storage.reading.order import SAMPLES, VIEWS, mix
from storage.shards.shard import ShardRef
from storage.shards.view_ids import of_view, plain, views_of
from storage.text import count

logger = logging.getLogger(__name__)

SAMPLE = np.dtype([("shard", "<u4"), ("row", "<u2"), ("class", "<u2")])
SHARD_PLACES = 65_536  # row numbers are uint16; a multiple of ROWS_PER_GROUP


def places(samples: np.ndarray) -> np.ndarray:
    """(n,) int64: the place of each SAMPLE record's row, shard * SHARD_PLACES + row."""
    return samples["shard"].astype(np.int64) * SHARD_PLACES + samples["row"]


@dataclass(frozen=True)
class SampleTable:
    """The samples of one split.

    samples: (n,) SAMPLE records sorted by (shard, row). Their field `class` indexes `classes`, their field `shard`
    indexes `shards`. An image that the folder holds twice is two samples.
    """

    samples: np.ndarray
    shards: tuple[ShardRef, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def of_pass(self, seed: int | None, number: int) -> "SampleTable":
        """The samples that a pass reads: this table, in every pass."""
        return self

    def group_starts(self) -> np.ndarray:
        """(groups + 1,) the first sample of each row group, then the number of samples."""
        groups = places(self.samples) // ROWS_PER_GROUP
        return np.append(np.flatnonzero(np.diff(groups, prepend=-1)), len(groups))


@dataclass(frozen=True)
class ViewTable:
    """The samples of one split in several views. Each pass takes one view per sample.

    samples: (views, n) SAMPLE records, one for each view of each sample. View 0 holds the plain features, which also
    replace a missing view. images: (n,) uint64, the first eight bytes of each image's digest. shards, classes: as in
    SampleTable.
    """

    samples: np.ndarray
    images: np.ndarray
    shards: tuple[ShardRef, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return self.samples.shape[1]

    def of_pass(self, seed: int | None, number: int) -> SampleTable:
        """One view of each sample, drawn by a hash of the seed, the pass and the image's digest."""
        views = mix(seed or 0, number, VIEWS, self.images) % np.uint64(len(self.samples))
        samples = np.take_along_axis(self.samples, views[None].astype(np.int64), axis=0)[0]
        return SampleTable(samples[sample_order(samples)], self.shards, self.classes)

    def flat(self, most: int) -> tuple[SampleTable, np.ndarray]:
        """Every view of a sample as a sample of its own, and the number of each one's image, (n,) uint64.

        At most `most` samples: whole images, drawn by a hash of their digests, so that those drawn stay when images are added.
        """
        images = np.broadcast_to(self.images, self.samples.shape).reshape(-1)
        samples = self.samples.reshape(-1)
        if len(samples) > most:
            drawn = mix(0, 0, SAMPLES, images)
            kept = drawn <= np.partition(drawn, most - 1)[most - 1]
            samples, images = samples[kept], images[kept]
        order = sample_order(samples)
        return SampleTable(samples[order], self.shards, self.classes), images[order]


def pin(store: Store, version: Version, split: str, classes: tuple[str, ...], folder: Path) -> SampleTable:
    """Write the sample table of a split to `folder` as `samples-<split>.npy`, and return it memory-mapped.

    Skips files whose class is not in `classes`.
    """
    table = sample_table(store, version, split, classes)
    return SampleTable(_mapped(folder / f"samples-{split}.npy", table.samples), table.shards, classes)


def pin_views(
    store: Store, version: Version, split: str, classes: tuple[str, ...], folder: Path, augmentation: str, variants: int
) -> ViewTable:
    """Write the samples of a split in `variants` views, the plain one included, and return them memory-mapped.

    augmentation: the text that identifies the augmentation of the other views. Logs a warning if samples lack a view.
    """
    files, rows = split_files(store, version, split, classes), version.read_rows(store)
    shards, plain_samples = sampled(version, files, plain(rows), classes)
    samples = np.repeat(plain_samples[None], variants, axis=0)
    for k, (there, has_it) in enumerate(_variants(version, files, rows, augmentation, variants), 1):
        samples[k, has_it.to_numpy()] = sampled(version, files.filter(has_it), there, classes)[1]
        if lacking := len(has_it) - pc.sum(has_it).as_py():
            logger.warning(
                "variant %d is missing for %d of %s: the plain image replaces it",
                k,
                lacking,
                count(len(has_it), "image"),
            )
    images = np.array([int.from_bytes(digest[:8], "little") for digest in files["digest"].to_pylist()], np.uint64)
    samples, images = (
        _mapped(folder / name, array) for name, array in (("views.npy", samples), ("images.npy", images))
    )
    return ViewTable(samples, images, shards, classes)


def _variants(
    version: Version, files: pa.Table, rows: pa.Table, augmentation: str, variants: int
) -> Iterator[tuple[pa.Table, pa.ChunkedArray]]:
    """Yield (rows, mask) of each variant number from 1 on. The mask tells which files have one of these rows."""
    for view in views_of(version.augmentations, augmentation, variants)[1:]:
        there = of_view(rows, view) if view is not None else rows.slice(0, 0)
        yield there, pc.is_in(files["digest"], there["digest"].combine_chunks())


@dataclass(frozen=True)
class Lacking:
    """The samples of a training that lack views. The default means none.

    samples: their number. digest: a sha256, in hex, of which images lack which views.
    """

    samples: int = 0
    digest: str = ""


def lacking_views(
    store: Store, version: Version, split: str, classes: tuple[str, ...], augmentation: str, variants: int
) -> Lacking:
    """Find the samples of a split that lack one of `variants` views, the plain one included."""
    files, rows = split_files(store, version, split, classes), version.read_rows(store)
    lacks_any, hasher = np.zeros(files.num_rows, bool), hashlib.sha256()
    for _, has_it in _variants(version, files, rows, augmentation, variants):
        lacks_it = pc.invert(has_it)
        digests = sorted(set(files["digest"].filter(lacks_it).to_pylist()))
        hasher.update(len(digests).to_bytes(8, "big") + b"".join(digests))
        lacks_any |= lacks_it.to_numpy()
    lacking = int(lacks_any.sum())
    return Lacking(lacking, hasher.hexdigest()) if lacking else Lacking()


def _mapped(path: Path, array: np.ndarray) -> np.ndarray:
    """Write an array to a file and return it memory-mapped."""
    sink = pa.BufferOutputStream()
    np.lib.format.write_array(sink, array, allow_pickle=False)
    replace(path, sink.getvalue().to_pybytes())
    return np.load(path, mmap_mode="r" if array.size else None, allow_pickle=False)


def sample_table(store: Store, version: Version, split: str, classes: tuple[str, ...]) -> SampleTable:
    """Build the sample table of a split in memory."""
    shards, samples = sample_rows(store, version, split, classes)
    return SampleTable(samples[sample_order(samples)], shards, classes)


def table_of(store: Store, version: Version, files: pa.Table, classes: tuple[str, ...]) -> tuple[pa.Table, SampleTable]:
    """The files that have features in the version, and their sample table.

    files: files of `classes`, as `split_files` returns them. They may come from any version, also of another space.
    """
    rows = plain(version.read_rows(store))
    files = files.filter(pc.is_in(files["digest"], rows["digest"].combine_chunks()))
    shards, samples = sampled(version, files, rows, classes)
    return files, SampleTable(samples[sample_order(samples)], shards, classes)


def sample_rows(
    store: Store, version: Version, split: str, classes: tuple[str, ...]
) -> tuple[tuple[ShardRef, ...], np.ndarray]:
    """The shards of a version, sorted by name, and SAMPLE records of a split's usable files, in order of path.

    Skips files whose class is not in `classes`.
    """
    return sampled(version, split_files(store, version, split, classes), plain(version.read_rows(store)), classes)


def split_files(store: Store, version: Version, split: str, classes: tuple[str, ...]) -> pa.Table:
    """The usable files of a split whose class is in `classes`, in order of path."""
    files = usable(version.read_files(store))
    is_wanted = pc.is_in(files["class"], pa.array(classes, pa.string()))
    return files.filter(pc.and_(pc.equal(files["split"], split), is_wanted))


def sampled(
    version: Version, files: pa.Table, rows: pa.Table, classes: tuple[str, ...]
) -> tuple[tuple[ShardRef, ...], np.ndarray]:
    """The shards of a version, sorted by name, and the SAMPLE record of each file.

    Each file must have a row in `rows`.
    """
    at = rows.take(pc.index_in(files["digest"].combine_chunks(), rows["digest"].combine_chunks()))
    names = sorted(version.shards)
    samples = np.empty(files.num_rows, SAMPLE)
    samples["shard"] = pc.index_in(at["shard"].combine_chunks(), pa.array(names, pa.string())).to_numpy()
    samples["row"] = at["row"].to_numpy()
    index = {name: number for number, name in enumerate(classes)}
    samples["class"] = [index[name] for name in files["class"].to_pylist()]
    return tuple(version.shards[name] for name in names), samples


def sample_order(samples: np.ndarray) -> np.ndarray:
    """The indices that sort SAMPLE records by (shard, row, class)."""
    return np.lexsort((samples["class"], samples["row"], samples["shard"]))
