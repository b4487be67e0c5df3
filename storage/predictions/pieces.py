"""Pieces: files of predictions in the store's cache, by which an interrupted run goes on. They cost only time if deleted.

    <store>/cache/predictions/<16 hex digits: of the output file>/<head>/<sha256>.arrow

A run works on one output file with one head. Another run on the same file would remove its pieces, so one run at a time
claims the folder of the file.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.atomic import replace, sweep
from storage.backend.lock import claim
from storage.errors import StoreBusy
from storage.layout import Store
from storage.reasons import FILE_FAULTS
from storage.records import file_sha256, sha256
from storage.schemas import DIGEST

logger = logging.getLogger(__name__)


def piece_schema(num_classes: int) -> pa.Schema:
    """digest: of the image. reason: why it has no probabilities, else null. probabilities: float32, one
    per class; NaN if there are none."""
    probabilities = pa.list_(pa.float32(), num_classes)
    return pa.schema([("digest", DIGEST), ("reason", pa.string()), ("probabilities", probabilities)])


@dataclass(frozen=True)
class Pieces:
    """Predictions by digest, each digest once. The probabilities stay on the disk.

    digests, reasons: of n images. Their rows lie in the blocks of the pieces, at positions that count through all blocks.
    """

    digests: pa.Array
    reasons: pa.Array
    _num_classes: int
    _positions: np.ndarray
    _blocks: tuple[np.ndarray, ...]

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """The probabilities of some of the n images, (rows, classes) float32."""
        starts = np.cumsum([0, *(len(block) for block in self._blocks)])
        positions = self._positions[rows]
        blocks = np.searchsorted(starts, positions, side="right") - 1
        found = np.empty((len(rows), self._num_classes), np.float32)
        for index in np.unique(blocks):
            here = blocks == index
            found[here] = self._blocks[index][positions[here] - starts[index]]
        return found


def pieces_folder(store: Store, head: str, out: Path) -> Path:
    """The folder on this machine of the pieces of a head for an output file."""
    return store.cache / "predictions" / hashlib.sha256(os.fsencode(out)).hexdigest()[:16] / store.head(head).name


@contextmanager
def claimed(folder: Path, out: Path) -> Iterator[None]:
    """Keep other runs from the pieces of an output file while the block runs. Raises StoreBusy if one has them."""
    with claim(folder.parent / "lock", StoreBusy(f"another run writes {out}; wait for it, or name another file")):
        yield


def write_piece(folder: Path, digests: list[bytes], probabilities: np.ndarray, reasons: dict[bytes, str]) -> Path:
    """Write a piece, named by the sha256 of its bytes.

    digests, probabilities: n digests and (n, classes) float32. reasons: digest → code of the images without probabilities.
    """
    classes = probabilities.shape[1]
    rows = np.concatenate([probabilities, np.full((len(reasons), classes), np.nan)]).astype(np.float32)
    columns = [
        pa.array([*digests, *reasons], DIGEST),
        pa.array([None] * len(digests) + list(reasons.values()), pa.string()),
        pa.FixedSizeListArray.from_arrays(rows.ravel(), classes),
    ]
    sink = pa.BufferOutputStream()
    table = pa.Table.from_arrays(columns, schema=piece_schema(classes))
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue().to_pybytes()
    path = folder / f"{sha256(data)}.arrow"
    replace(path, data)
    return path


def read_pieces(folder: Path, num_classes: int, is_last_word: bool = False) -> Pieces:
    """Every prediction in a folder of pieces. Removes damaged pieces.

    is_last_word: also take the images that could not be read; else they are left out, because their files may have become readable.
    """
    sweep(folder)
    schema = piece_schema(num_classes)
    found = (_read_piece(path, schema) for path in sorted(folder.glob("*.arrow")))
    tables = [table for table in found if table]  # None or without rows: nothing to say
    listed = pa.concat_tables([schema.empty_table(), *tables]).select(["digest", "reason"]).combine_chunks()
    is_unread = pc.fill_null(pc.is_in(listed["reason"], pa.array(list(FILE_FAULTS))), False).to_numpy()
    positions = np.concatenate([np.flatnonzero(~is_unread), np.flatnonzero(is_unread & is_last_word)])
    digests = listed["digest"].take(pa.array(positions)).combine_chunks()
    _, first = np.unique(pc.index_in(digests, digests.unique()).to_numpy(), return_index=True)
    positions = positions[np.sort(first)]
    listed = listed.take(pa.array(positions)).combine_chunks()
    blocks = tuple(_block(table, num_classes) for table in tables)
    digests, reasons = (listed[name].combine_chunks() for name in ("digest", "reason"))
    return Pieces(digests, reasons, num_classes, positions, blocks)


def _block(table: pa.Table, num_classes: int) -> np.ndarray:
    (chunk,) = table["probabilities"].chunks
    return chunk.flatten().to_numpy().reshape(-1, num_classes)


def _read_piece(path: Path, schema: pa.Schema) -> pa.Table | None:
    if file_sha256(path) == path.stem:
        # Closed at once: the mapping stays, and a process may map more files than it may have open.
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_file(file).read_all().cast(schema)
    logger.warning("%s is damaged, so its images are predicted again", path)
    path.unlink(missing_ok=True)
    return None


def remove_pieces(folder: Path, keep: bool) -> None:
    """Remove the pieces of an output file, once it says what they say. keep: not those in `folder`."""
    for other in folder.parent.iterdir():
        if other.is_dir() and not (keep and other == folder):
            shutil.rmtree(other, ignore_errors=True)
