"""The sample table: what a training sees of a pinned version, eight bytes a sample, mapped from disk."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.digests import DIGEST
from storage.durable import replace
from storage.files import usable
from storage.layout import ROWS_PER_GROUP, Store
from storage.segments import read_segments
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


def files_of(
    store: Store, version: Version, split: str, table: SampleTable, indices: Sequence[int]
) -> list[tuple[bytes, bytes]]:
    """Path and digest of the file behind each of a few samples of a split's table; one segment is in memory at a time.

    Files of equal bytes and class are equal samples, which stand for those files in order of path.
    """
    samples = {index: table.samples[index].item() for index in indices}
    digests = _digests_at(store, version, {(table.shards[shard].name, row) for shard, row, _ in samples.values()})
    paths = _paths_of(store, version, split, set(digests.values()))
    found = []
    for index in indices:
        shard, row, label = samples[index]
        digest = digests[table.shards[shard].name, row]
        first = bisect_left(table.samples, samples[index], key=lambda sample: sample.item())
        found.append((paths[digest, table.classes[label]][index - first], digest))
    return found


def _digests_at(store: Store, version: Version, places: set[tuple[str, int]]) -> dict[tuple[str, int], bytes]:
    """The digest of the image whose features lie at each (shard, row)."""
    shards = pa.array([shard for shard, _ in places], pa.string())
    numbers = pa.array([row for _, row in places], pa.uint16())
    found = {}
    for name in version.rows:
        rows = read_segments(store, "rows", (name,))
        rows = rows.filter(pc.and_(pc.is_in(rows["shard"], shards), pc.is_in(rows["row"], numbers)))
        for row in rows.to_pylist():
            found[row["shard"], row["row"]] = row["digest"]
    return {place: found[place] for place in places}


def _paths_of(store: Store, version: Version, split: str, digests: set[bytes]) -> dict[tuple[bytes, str], list[bytes]]:
    """The paths of a split's usable files with each (digest, class), in order."""
    wanted = pa.array(list(digests), DIGEST)
    found: dict[tuple[bytes, str], list[bytes]] = {}
    for piece in version.file_segments(store):
        files = usable(piece)
        files = files.filter(pc.and_(pc.equal(files["split"], split), pc.is_in(files["digest"], wanted)))
        for file in files.select(["path", "digest", "class"]).to_pylist():
            found.setdefault((file["digest"], file["class"]), []).append(file["path"])
    return found
