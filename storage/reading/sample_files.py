"""Find the file and digest of each sample of a table."""

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.atomic import replace
from storage.layout import Store
from storage.manifest.file_table import usable
from storage.manifest.segments import read_segments
from storage.manifest.versions import Version
from storage.reading.samples import SampleTable, sample_order, sampled, split_files
from storage.schemas import DIGEST
from storage.shards.view_ids import plain


def pin_files(store: Store, version: Version, split: str, table: SampleTable, folder: Path) -> pa.Table:
    """Write the path and digest of each sample of a split's table to `folder`, and return that table memory-mapped.

    Row i belongs to sample i.
    """
    files = split_files(store, version, split, table.classes)
    order = sample_order(sampled(version, files, plain(version.read_rows(store)), table.classes)[1])
    path = folder / f"files-{split}.arrow"
    sink = pa.BufferOutputStream()
    pinned = files.select(["path", "digest"]).take(pa.array(order))
    with pa.ipc.new_file(sink, pinned.schema) as writer:
        writer.write_table(pinned)
    replace(path, sink.getvalue().to_pybytes())
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def files_of(
    store: Store, version: Version, split: str, table: SampleTable, indices: Sequence[int]
) -> list[tuple[bytes, bytes]]:
    """(path, digest) of each of a few samples of a split's table. Memory holds one segment at a time.

    Files of equal bytes and class have equal samples. The i-th of these belongs to the i-th file by path.
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
    """The digest of the image at each (shard, row)."""
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
    """The paths of a split's usable files by (digest, class), in order of path."""
    of_samples = pa.array(list(digests), DIGEST)
    found: dict[tuple[bytes, str], list[bytes]] = {}
    for piece in version.file_segments(store):
        files = usable(piece)
        files = files.filter(pc.and_(pc.equal(files["split"], split), pc.is_in(files["digest"], of_samples)))
        for file in files.select(["path", "digest", "class"]).to_pylist():
            found.setdefault((file["digest"], file["class"]), []).append(file["path"])
    return found
