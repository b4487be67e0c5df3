"""Pieces: files of predictions in the store's cache, by which an interrupted run goes on. They cost only time if deleted.

    <store>/cache/predictions/<head>/<sha256>.arrow

A prediction belongs to a head and the digest of an image, so any later run of the same head uses it.
"""

import logging
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.atomic import replace, sweep
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


def pieces_folder(store: Store, head: str) -> Path:
    """The folder of a head's pieces on this machine."""
    return store.cache / "predictions" / store.head(head).name


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


def read_pieces(folder: Path, num_classes: int, is_last_word: bool = False) -> pa.Table:
    """Every prediction in a folder of pieces, memory-mapped, each digest once. Removes a damaged piece.

    is_last_word: also take the images that could not be read; else they are left out, because their files may have become readable.
    """
    sweep(folder)
    empty = piece_schema(num_classes).empty_table()
    tables = [
        table for path in sorted(folder.glob("*.arrow")) if (table := _read_piece(path, empty.schema)) is not None
    ]
    found = pa.concat_tables([empty, *tables]).combine_chunks()
    is_unread = pc.fill_null(pc.is_in(found["reason"], pa.array(list(FILE_FAULTS))), False)
    good = found.filter(pc.invert(is_unread))
    return _once(pa.concat_tables([good, found.filter(is_unread)]) if is_last_word else good)


def _once(table: pa.Table) -> pa.Table:
    """The first row of each digest."""
    digests = table["digest"].combine_chunks()
    _, first = np.unique(pc.index_in(digests, digests.unique()).to_numpy(), return_index=True)
    return table.take(pa.array(np.sort(first)))


def remove_pieces(folder: Path) -> None:
    """Remove a head's pieces, once a file holds what they say."""
    shutil.rmtree(folder, ignore_errors=True)


def _read_piece(path: Path, schema: pa.Schema) -> pa.Table | None:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        if table.schema == schema and file_sha256(path) == path.stem:
            return table
    except (OSError, pa.ArrowException):
        pass
    logger.warning("%s is damaged, so its images are predicted again", path)
    path.unlink(missing_ok=True)
    return None
