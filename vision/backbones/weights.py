"""The backbone's weights as numpy tensors: from a file, from ImageNet, or drawn from a seed. Imports no Keras."""

import hashlib
import json
from pathlib import Path

import numpy as np

from vision.backbones.imagenet import imagenet_file
from vision.backbones.own_file import NETWORK, network_digest
from vision.backbones.weights_file import Tensors, read_weights
from vision.errors import WeightsError
from vision.specs import Backbone, Tensor

RANDOM_ALGORITHM = "he-normal pcg64 seed 0 version 1"


def random_weights(backbone: Backbone) -> Tensors:
    """Tensors in the order of the backbone's entry, drawn from one generator. They are the same on every machine."""
    generator = np.random.Generator(np.random.PCG64(0))
    return {name: tuple(_draw(generator, tensor) for tensor in layer) for name, layer in backbone.tensors.items()}


def _draw(generator: np.random.Generator, tensor: Tensor) -> np.ndarray:
    if not tensor.deviation:
        return np.full(tensor.shape, tensor.value, np.float32)
    return generator.standard_normal(tensor.shape, np.float32) * np.float32(tensor.deviation)


def load_weights(backbone: Backbone, source: str) -> Tensors:
    """Tensors from a source: `random`, `imagenet` or the path of a file. Raises WeightsError."""
    if source == "random":
        return random_weights(backbone)
    return read_weights(backbone, imagenet_file(backbone) if source == "imagenet" else Path(source))


def tensors_digest(tensors: Tensors) -> str:
    """32 hex digits of the sha256 over names, shapes and little-endian float32 bytes, in network order.

    Those of a network that Keras describes are in its file (vision/backbones/own_file.py).
    """
    if NETWORK in tensors:
        return network_digest(tensors[NETWORK][0].tobytes())
    hasher = hashlib.sha256()
    for name, arrays in tensors.items():
        for array in arrays:
            hasher.update(f"{name}{array.shape}".encode())
            hasher.update(np.ascontiguousarray(array, "<f4").tobytes())
    return hasher.hexdigest()[:32]


def weights_digest(backbone: Backbone, source: str, memo: Path) -> str:
    """The digest of the weights of a source. The JSON file `memo` remembers it by path, size and modification time."""
    if source == "random":
        return hashlib.sha256(f"{RANDOM_ALGORITHM} {backbone.name}".encode()).hexdigest()[:32]
    path = imagenet_file(backbone) if source == "imagenet" else Path(source)
    try:
        status = path.stat()
    except OSError as error:
        raise WeightsError(f"`weights`: {path} cannot be read: {error.strerror}") from error
    key = f"{backbone.name} {path.resolve()} {status.st_size} {status.st_mtime_ns}"
    known = _read_memo(memo)
    if key not in known:
        known[key] = tensors_digest(read_weights(backbone, path))
        _write_memo(memo, known)
    return known[key]


def _read_memo(memo: Path) -> dict[str, str]:
    """Known digests; none if the checksum of the memo is wrong, because a wrong digest would name another feature space."""
    try:
        checksum, found = json.loads(memo.read_text())
        return dict(found) if checksum == _checksum(found) else {}
    except (OSError, ValueError, TypeError):
        return {}


def _checksum(known: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]


def _write_memo(memo: Path, known: dict[str, str]) -> None:
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(json.dumps([_checksum(known), known], indent=1))
    except OSError:
        pass  # the next run hashes the file again
