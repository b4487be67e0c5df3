"""The sample table: what a training sees of a pinned version, eight bytes a sample, mapped from disk."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.durable import replace
from storage.files import usable
from storage.layout import ROWS_PER_GROUP, Store
from storage.shards import ShardRef
from storage.versions import Version

SAMPLE = np.dtype([("shard", "<u4"), ("row", "<u2"), ("class", "<u2")])


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

    def group_starts(self) -> np.ndarray:
        """Where each run of samples of one row group begins, with the number of samples at the end."""
        group = self.samples["shard"].astype(np.int64) * 65_536 + self.samples["row"] // ROWS_PER_GROUP
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        return np.append(starts, len(group))


def pin(store: Store, version: Version, split: str, classes: tuple[str, ...], folder: Path) -> SampleTable:
    """The sample table of a split, written to `folder` as `samples-<split>.npy` and mapped.

    Raises KeyError for a class of the version that `classes` does not name.
    """
    table = sample_table(store, version, split, classes)
    path = folder / f"samples-{split}.npy"
    sink = pa.BufferOutputStream()
    np.lib.format.write_array(sink, table.samples, allow_pickle=False)
    replace(path, sink.getvalue().to_pybytes())
    mapped = np.load(path, mmap_mode="r" if len(table) else None, allow_pickle=False)
    return SampleTable(mapped, table.shards, classes)


def sample_table(store: Store, version: Version, split: str, classes: tuple[str, ...]) -> SampleTable:
    """The sample table of a split, in memory. Raises as `pin` does."""
    shards, samples = sample_rows(store, version, split, classes)
    order = np.lexsort((samples["class"], samples["row"], samples["shard"]))
    return SampleTable(samples[order], shards, classes)


def sample_rows(
    store: Store, version: Version, split: str, classes: tuple[str, ...]
) -> tuple[tuple[ShardRef, ...], np.ndarray]:
    """The shards of a version in order of name, and SAMPLE records of a split's usable files in order of path.

    Raises KeyError for a class of the version that `classes` does not name.
    """
    files = usable(version.read_files(store))
    files = files.filter(pc.equal(files["split"], split))
    rows = version.read_rows(store)
    rows = rows.filter(pc.equal(rows["view"], pa.scalar(0, pa.uint16())))
    at = rows.take(pc.index_in(files["digest"].combine_chunks(), rows["digest"].combine_chunks()))
    names = sorted(version.shards)
    samples = np.empty(files.num_rows, SAMPLE)
    samples["shard"] = pc.index_in(at["shard"].combine_chunks(), pa.array(names, pa.string())).to_numpy()
    samples["row"] = at["row"].to_numpy()
    index = {name: number for number, name in enumerate(classes)}
    samples["class"] = [index[name] for name in files["class"].to_pylist()]
    return tuple(version.shards[name] for name in names), samples
