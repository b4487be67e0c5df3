"""A network in one `.keras` file: its digests, read without Keras.

The file of a user is a backbone of its own. Keras also writes one for each backbone that it describes.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any

import h5py
import numpy as np

from vision.errors import SpecError

SUFFIX = ".keras"
# Names of the arrays of a network that Keras describes, in place of its layers' names: the bytes of its file, and Keras'
# features of the sample picture, (1, *maps) float32.
NETWORK, EXPECTED = "network.keras", "expected.npy"
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
LAMBDAS = ("Lambda", "__lambda__")
LARGEST_CONFIG = 64 * 2**20  # bytes; that of NASNetLarge has 0.6 MB
UNREADABLE = (OSError, zipfile.BadZipFile, RuntimeError, TypeError, ValueError, AttributeError, KeyError, EOFError)


def is_own(backbone: str) -> bool:
    """Whether the parameter `backbone` is the path of a file."""
    return backbone.endswith(SUFFIX)


def own_name(path: str) -> str:
    """The name of a user's file as a backbone: `keras-` and 32 hex digits of its architecture. Raises SpecError."""
    status = _status(path)
    return f"keras-{_architecture(path, *status)}"


def file_sha256(path: str) -> str:
    """64 hex digits of the sha256 of a file. Raises SpecError if it cannot be read."""
    return _sha256(path, *_status(path))


def network_digest(data: bytes) -> str:
    """32 hex digits of the sha256 over the names, shapes and float32 bytes of all weights in a `.keras` file.

    Neither the time of saving nor an optimizer changes it. Raises ValueError if the file is damaged.
    """
    hasher = hashlib.sha256()
    try:
        with h5py.File(io.BytesIO(weights_member(data))) as file:
            for array in _arrays(file):
                if array.id.get_storage_size() < array.nbytes:  # a false shape could claim any amount of memory
                    raise ValueError(f"{array.name} has less data than its shape says")
                hasher.update(f"{array.name}{array.shape}".encode())
                hasher.update(np.ascontiguousarray(array[()], "<f4").tobytes())
    except UNREADABLE as error:
        raise ValueError(f"no .keras file with weights ({error})") from error
    return hasher.hexdigest()[:32]


def weights_member(data: bytes) -> bytes:
    """The weights in a `.keras` file, as an HDF5 file of Keras 3. Raises what `zipfile` raises, and ValueError."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if archive.getinfo(WEIGHTS).file_size > _most(len(data)):
            raise ValueError(f"{WEIGHTS} is too large")
        return archive.read(WEIGHTS)


def _arrays(file: h5py.File) -> list[h5py.Dataset]:
    """The weights in the order of their names, without those of an optimizer, and without links to other files."""
    found: list[h5py.Dataset] = []

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            if item.external or item.is_virtual:
                raise ValueError(f"{name} is kept in another file")
            found.append(item)

    file.visititems(visit)  # follows no link to another file
    return sorted(found, key=lambda array: array.name)


def _most(size_bytes: int) -> int:
    """The most bytes of weights to believe of an archive: Keras stores them uncompressed or hardly compressed."""
    return 64 * size_bytes + 2**20


def _status(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise SpecError(f"`backbone`: {path} cannot be read: {error.strerror}") from error
    if not S_ISREG(status.st_mode):
        raise SpecError(f"`backbone`: {path} is no file")
    return status.st_size, status.st_mtime_ns


@lru_cache(8)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(8)
def _architecture(path: str, size: int, mtime_ns: int) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(CONFIG).file_size > LARGEST_CONFIG:
                raise ValueError(f"{CONFIG} is too large")
            config = json.loads(archive.read(CONFIG))
            archive.getinfo(WEIGHTS)
        architecture = {name: config[name] for name in ("module", "class_name", "config", "registered_name")}
        foreign = sorted(set(_foreign(architecture)))
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise SpecError(f"`backbone`: {path} is not a .keras file of Keras 3 ({reason})") from error
    if foreign:
        raise SpecError(f"`backbone`: {path} has code of its own, which is never run: {', '.join(foreign[:3])}")
    return hashlib.sha256(json.dumps(architecture, sort_keys=True).encode()).hexdigest()[:32]


def _foreign(config: Any) -> Iterator[str]:
    """The classes and functions of a configuration that are not Keras' own. Its safe mode would refuse them, too."""
    if isinstance(config, list):
        for each in config:
            yield from _foreign(each)
    if isinstance(config, dict):
        module, name = config.get("module", "keras"), config.get("class_name")
        if isinstance(name, str) and (name in LAMBDAS or f"{module}.".split(".")[0] != "keras"):
            yield {"function": str(config.get("config"))}.get(name, name)
        for each in config.values():
            yield from _foreign(each)
