"""Export a version as one .npz per image with features and label, the format that older training code reads."""

import io
import json
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from storage.backend.paths import is_local
from storage.errors import InputError
from storage.layout import ROWS_PER_GROUP, Store
from storage.manifest.versions import Version
from storage.reading.samples import SampleTable, sample_rows
from storage.shards.shard import Shard
from storage.text import visible


def check_out(out: Path, store: Store) -> None:
    """Raise InputError if `out` is a file, a folder that is not empty, or a folder in the store."""
    shown = visible(os.fsencode(out))
    if is_local(store.root) and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(store.root)):
        raise InputError(f"--out: {shown} is inside the store; give a folder outside of it")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out: {shown} is a file; expected a new or empty folder")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"--out: {shown} is not empty; expected a new or empty folder")


def export_npz(
    store: Store, version: Version, splits: tuple[str, ...], classes: tuple[str, ...], out: Path
) -> Iterator[int]:
    """Write `<out>/<split>/<i>_<label>.npz` for each usable image. Yields the size in bytes of each written file.

    A file has `features` (float32, the shape of the space) and `label` (int64 scalar, an index into `classes`).
    i counts the images of a split in order of path. The files are written in order of the shards' rows, with one row
    group in memory at a time. `classes.json` comes last, so that its presence means that the export is complete.
    Raises OSError (disk full) and StoreDamaged; even then no file is truncated.
    """
    table, split_of, position = _in_order_of_rows(store, version, splits, classes)
    for split in splits:
        (out / split).mkdir(parents=True)
    shard: Shard | None = None
    for start, stop in pairwise(table.group_starts().tolist()):
        ref = table.shards[table.samples["shard"][start]]
        if shard is None or shard.ref != ref:
            shard = Shard(store, ref)
        group = shard.read_group(int(table.samples["row"][start]) // ROWS_PER_GROUP)
        for index in range(start, stop):
            _, row, label = table.samples[index].item()
            features = group[row % ROWS_PER_GROUP].astype(np.float32)
            name = f"{splits[split_of[index]]}/{position[index]}_{label}.npz"
            yield _write(out, name, _npz(features, label))
    record = {"classes": classes, "fingerprint": store.fingerprint, "version": version.number}
    _write(out, "classes.json", json.dumps(record, indent=1).encode())


def _in_order_of_rows(
    store: Store, version: Version, splits: tuple[str, ...], classes: tuple[str, ...]
) -> tuple[SampleTable, np.ndarray, np.ndarray]:
    """The samples of all splits, sorted by (shard, row), with the split of each and its index in the split by path."""
    found = [sample_rows(store, version, split, classes) for split in splits]
    shards, samples = found[0][0], np.concatenate([samples for _, samples in found])
    split_of = np.repeat(np.arange(len(splits)), [len(samples) for _, samples in found])
    position = np.concatenate([np.arange(len(samples)) for _, samples in found])
    order = np.lexsort((samples["row"], samples["shard"]))
    return SampleTable(samples[order], shards, classes), split_of[order], position[order]


def _npz(features: np.ndarray, label: int) -> memoryview:
    buffer = io.BytesIO()
    np.savez(buffer, features=features, label=np.int64(label))
    return buffer.getbuffer()


def _write(out: Path, name: str, data: bytes | memoryview) -> int:
    """Write a file atomically, so that another process may read every file of the folder. Returns its size in bytes."""
    temporary = out / "writing"
    try:
        temporary.write_bytes(data)
        temporary.replace(out / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return len(data)
