"""Pool the stored feature maps of a version into the file of its pooled vectors, row group by row group."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.atomic import sweep, writing
from storage.layout import ROWS_PER_GROUP, Store
from storage.manifest.segments import read_segments
from storage.manifest.versions import Version, read_version, version_numbers
from storage.reading.open_shards import OpenShards
from storage.reading.pooled_file import Layout, PooledVectors, finish, write_rows
from storage.schemas import DIGEST
from storage.shards.shard import FeatureType
from storage.shards.view_ids import plain
from storage.text import count

logger = logging.getLogger(__name__)

READ_THREADS = 2  # one decompresses while the other converts float16, which takes as long
COPIED_ROWS = 4096
NEW = -1

Known = Callable[[Version], PooledVectors | None]


def compute(store: Store, version: Version, path: Path, known: Known) -> None:
    """Write the file of a version. known: the vectors of an older version, if a file has them; equal rows are copied.

    Raises StoreDamaged if features are missing or damaged.
    """
    rows = plain(version.read_rows(store))
    shards = OpenShards(store, tuple(version.shards.values()))
    names = pa.array(list(version.shards), pa.string())
    at = np.stack([pc.index_in(rows["shard"], names).to_numpy(), rows["row"].to_numpy()]).astype(np.int64)
    kind = shards.kind(int(at[0, 0])) if rows.num_rows else FeatureType("<f4", (1,))
    layout = Layout(rows.num_rows, kind.shape[-1] if kind.shape else 1, len(kind.shape) < 2)
    older, source = _reusable(store, version, rows, layout, known)
    missing = np.flatnonzero(source == NEW)
    logger.info("pooling the features of %s of %s", count(len(missing), "image"), f"{rows.num_rows:,}")

    def pool_group(group: np.ndarray) -> None:
        shard, first = at[:, group[0]].tolist()
        maps = shards.read_group(shard, first // ROWS_PER_GROUP, kind)[at[1, group] % ROWS_PER_GROUP]
        order = np.argsort(group)
        for name, values in zip(layout.names[1:], pooled(maps), strict=False):
            write_rows(file.fileno(), layout, name, group[order], values[order])

    with writing(path) as file:
        sweep(path.parent)
        file.truncate(layout.end)
        write_rows(file.fileno(), layout, "digests", np.arange(rows.num_rows), digest_bytes(rows["digest"]))
        if older is not None:
            _copy(older, source, layout, file.fileno())
        with ThreadPoolExecutor(READ_THREADS) as threads:
            try:
                for _ in threads.map(pool_group, _groups(at, missing)):
                    pass
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise
        finish(file.fileno(), file.name, layout)


def pooled(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, …, channels) → the average and the maximum of each channel, both (n, channels) float32."""
    channels = maps.shape[-1] if maps.ndim > 1 else 1
    cells = maps.reshape(len(maps), -1, channels).astype(np.float32)
    return cells.sum(axis=1) / np.float32(cells.shape[1]), cells.max(axis=1)


def digest_bytes(column: pa.ChunkedArray) -> np.ndarray:
    """(n, 32) uint8: a column of digests without nulls."""
    flat = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], DIGEST)
    return np.frombuffer(flat.buffers()[1] or b"", np.uint8, 32 * len(flat), 32 * flat.offset).reshape(-1, 32)


def _groups(at: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """`rows` by the row group that has their features. at: (2, n) the shard and the row in it of each."""
    groups = np.stack([at[0, rows], at[1, rows] // ROWS_PER_GROUP])
    order = np.lexsort(groups[::-1])
    cuts = np.flatnonzero(np.any(np.diff(groups[:, order]) != 0, axis=0)) + 1
    return (group for group in np.split(rows[order], cuts) if len(group))


def _reusable(
    store: Store, version: Version, rows: pa.Table, layout: Layout, known: Known
) -> tuple[PooledVectors | None, np.ndarray]:
    """The newest older vectors, and (n,) int64 the row there of each of `rows`; NEW if it has to be computed.

    A row is known if both versions list its segment, because a segment says which feature an image has.
    """
    source = np.full(rows.num_rows, NEW)
    for number in reversed([number for number in version_numbers(store) if number < version.number]):
        other = read_version(store, number)
        shared = tuple(name for name in version.rows if name in other.rows)
        older = known(other) if shared else None
        if older is None or older.average.shape[1] != layout.channels:
            continue
        same = plain(read_segments(store, "rows", shared))
        at = pc.index_in(same["digest"], rows["digest"].combine_chunks()).to_numpy()
        source[at] = older.find(digest_bytes(same["digest"]))
        return older, source
    return None, source


def _copy(older: PooledVectors, source: np.ndarray, layout: Layout, file: int) -> None:
    """Copy the rows that an older file has."""
    targets = np.flatnonzero(source != NEW)
    for start in range(0, len(targets), COPIED_ROWS):
        piece = targets[start : start + COPIED_ROWS]
        for name in layout.names[1:]:
            write_rows(file, layout, name, piece, getattr(older, name)[source[piece]])
    older.release()
