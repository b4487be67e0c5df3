"""Export a version as tables that other libraries open without this program: Arrow, Parquet for HF datasets, or .npy.

    arrow   FOLDER/<split>.arrow                        Arrow IPC, features as fixed_shape_tensor of float32
    hf      FOLDER/<split>-00000-of-00001.parquet       features as lists of float32, flattened in C order
    npy     FOLDER/features.npy, FOLDER/table.parquet   one memory-mappable array as stored, and a row of columns each

Every table has `path`, `class`, `split`, `digest` and `label`, an index into the classes of FOLDER/classes.json.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.backend.output import replacing
from storage.layout import ROWS_PER_GROUP, Store
from storage.manifest.versions import Version
from storage.reading.pooling import pooled
from storage.reading.samples import SampleTable, sample_order, sampled, split_files
from storage.shards.shard import Shard
from storage.shards.view_ids import plain
from storage.text import visible

BATCH_BYTES = 2**24  # of features that are written together; a row group of Parquet
POOLINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda maps: maps,
    "avg": lambda maps: pooled(maps)[0],
    "max": lambda maps: pooled(maps)[1],
    "avg-max": lambda maps: np.hstack(pooled(maps)),
}


@dataclass(frozen=True)
class TableOptions:
    """What a table has. pooling: a key of POOLINGS; avg-max has the averages first. columns: `path`, and further columns by
    which files are joined on their shown path; files without a row there get null."""

    pooling: str = "none"
    columns: tuple[pa.Table, ...] = field(default=())


Progress = Iterator[tuple[int, int]]  # images and bytes of features since the last one
Batch = tuple[pa.Table, np.ndarray]  # n rows of columns, (n, *shape) features


def export_tables(
    store: Store,
    version: Version,
    splits: tuple[str, ...],
    classes: tuple[str, ...],
    out: Path,
    format: str,
    options: TableOptions,
) -> Progress:
    """Write a folder that appears whole or not at all. Yields the images and bytes of each batch.

    A split is in the order of the shards' rows. Memory holds the columns of a split and BATCH_BYTES of features. Raises
    OSError (disk full) and StoreDamaged.
    """
    with replacing(out) as folder, ExitStack() as files:
        folder.mkdir()
        writer = WRITERS[format](folder, files)
        for split in splits:
            for columns, features in _batches(store, version, split, classes, options):
                writer.write(split, columns, features)
                yield columns.num_rows, features.nbytes
        files.close()
        record = {"classes": classes, "fingerprint": store.fingerprint, "version": version.number}
        (folder / "classes.json").write_text(json.dumps(record | {"pooling": options.pooling}, indent=1))


def _batches(
    store: Store, version: Version, split: str, classes: tuple[str, ...], options: TableOptions
) -> Iterator[Batch]:
    listed = split_files(store, version, split, classes)
    shards, samples = sampled(version, listed, plain(version.read_rows(store)), classes)
    order = sample_order(samples)
    table, columns = SampleTable(samples[order], shards, classes), _columns(listed.take(pa.array(order)), options)
    columns = columns.append_column("label", pa.array(table.samples["class"].astype(np.int64)))
    waiting: list[np.ndarray] = []
    written = 0
    for features in _features(store, table, POOLINGS[options.pooling]):
        waiting.append(features)
        if sum(part.nbytes for part in waiting) >= BATCH_BYTES:
            whole = np.concatenate(waiting)
            yield columns.slice(written, len(whole)), whole
            waiting, written = [], written + len(whole)
    if waiting:
        yield columns.slice(written), np.concatenate(waiting)


def _features(store: Store, table: SampleTable, pool: Callable[[np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
    """The features of the samples, one row group of a shard at a time."""
    shard: Shard | None = None
    for start, stop in pairwise(table.group_starts().tolist()):
        ref = table.shards[table.samples["shard"][start]]
        if shard is None or shard.ref != ref:
            shard = Shard(store, ref)
        rows = table.samples["row"][start:stop]
        yield pool(shard.read_group(int(rows[0]) // ROWS_PER_GROUP)[rows % ROWS_PER_GROUP])


def _columns(files: pa.Table, options: TableOptions) -> pa.Table:
    """`path` as it is shown, class, split and digest of the files, with the columns that were joined."""
    paths = pa.array([visible(path) for path in files["path"].to_pylist()], pa.string())
    columns = files.select(["class", "split", "digest"]).add_column(0, "path", paths)
    for more in options.columns:
        at = pc.index_in(paths, more["path"].combine_chunks())
        for name in more.column_names:
            if name != "path":
                columns = columns.append_column(name, more[name].combine_chunks().take(at))
    return columns


class _ArrowWriter:
    """One Arrow IPC file per split, uncompressed, so that readers map it."""

    def __init__(self, folder: Path, files: ExitStack):
        self._folder, self._files = folder, files
        self._open: dict[str, Any] = {}

    def write(self, split: str, columns: pa.Table, features: np.ndarray) -> None:
        values = np.ascontiguousarray(features, np.float32)
        tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(values)
        table = columns.append_column("features", tensor)
        if split not in self._open:
            sink = self._files.enter_context(pa.OSFile(os.fspath(self._folder / f"{split}.arrow"), "wb"))
            self._open[split] = self._files.enter_context(pa.ipc.new_file(sink, table.schema))
        self._open[split].write_table(table)


class _ParquetWriter:
    """One Parquet file per split, named as HF datasets expects."""

    def __init__(self, folder: Path, files: ExitStack):
        self._folder, self._files = folder, files
        self._open: dict[str, pq.ParquetWriter] = {}

    def write(self, split: str, columns: pa.Table, features: np.ndarray) -> None:
        flat = np.ascontiguousarray(features, np.float32).reshape(len(features), -1)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
        table = columns.append_column("features", lists)
        if split not in self._open:
            path = self._folder / f"{split}-00000-of-00001.parquet"
            self._open[split] = self._files.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
        self._open[split].write_table(table)


class _NpyWriter:
    """`features.npy` of all splits, whose header is written again when the number of rows is known, and `table.parquet`."""

    def __init__(self, folder: Path, files: ExitStack):
        self._folder, self._files = folder, files
        self._rows = 0
        self._features: BinaryIO | None = None
        self._table: pq.ParquetWriter | None = None

    def write(self, split: str, columns: pa.Table, features: np.ndarray) -> None:
        if self._features is None or self._table is None:
            self._features = self._files.enter_context((self._folder / "features.npy").open("wb"))
            self._table = self._files.enter_context(pq.ParquetWriter(self._folder / "table.parquet", columns.schema))
        self._rows += len(features)
        self._features.seek(0)
        self._features.write(_npy_header((self._rows, *features.shape[1:]), features.dtype))
        self._features.seek(0, os.SEEK_END)
        self._features.write(np.ascontiguousarray(features).data)
        self._table.write_table(columns)


def _npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The header of a .npy file, of the same 128 bytes for any number of rows."""
    text = repr({"descr": dtype.str, "fortran_order": False, "shape": shape})
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n"


WRITERS: dict[str, Any] = {"arrow": _ArrowWriter, "hf": _ParquetWriter, "npy": _NpyWriter}
