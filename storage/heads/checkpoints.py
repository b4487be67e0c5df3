"""Checkpoints of trainings: arrays and a record in one file beside the head, replaced atomically."""

import io
import json
import logging
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from storage.backend.atomic import writing
from storage.heads.registry import working_folder
from storage.layout import Store
from storage.records import sealed, unsealed

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.npz"
RECORD = "record.json"


def write_checkpoint(store: Store, name: str, arrays: Iterable[tuple[str, np.ndarray]], record: dict[str, Any]) -> None:
    """Replace the checkpoint of the head `name`. Writes the arrays one by one and keeps none in memory.

    The file has numpy's own npz layout, so that numpy alone can read it.
    """
    path = working_folder(store, name) / CHECKPOINT
    with writing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for key, array in arrays:
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                _write(member, np.asarray(array, order="C"))
        archive.writestr(RECORD, json.dumps(sealed(record), allow_nan=False))
    there = store.head(name) / CHECKPOINT
    if not isinstance(there, Path):
        there.fs.put_file(str(path), there.path)


def read_checkpoint(store: Store, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Read the arrays and the record of a checkpoint.

    Returns None if there is no checkpoint, or if it is damaged, with a warning.
    """
    try:
        with (store.head(name) / CHECKPOINT).open("rb") as file, zipfile.ZipFile(file) as archive:
            record = unsealed(json.loads(archive.read(RECORD)))
            members = [member for member in archive.namelist() if member != RECORD]
            arrays = {member.removesuffix(".npy"): _array(archive.read(member)) for member in members}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        logger.warning("cannot read the checkpoint of head %s, so its training starts over: %s", name, error)
        return None
    return arrays, record


def _write(member: IO[bytes], array: np.ndarray) -> None:
    """Write an array as np.lib.format.write_array does, but without its copies of 16 MB at a time."""
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(member, header)
    member.write(array.reshape(-1).view(np.uint8).data)


def _array(data: bytes) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def remove_checkpoint(store: Store, name: str) -> None:
    """Remove the checkpoint of a training, if there is one."""
    for folder in {store.head(name), working_folder(store, name)}:
        (folder / CHECKPOINT).unlink(missing_ok=True)
