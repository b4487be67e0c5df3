"""The backbone's weights as numpy tensors: from a file, from ImageNet, or drawn from a seed. No Keras in here.

`python -m vision.weights` fetches the ImageNet file with Keras, in a process of its own.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np

from vision.specs import BACKBONES, Backbone

RANDOM_ALGORITHM = "he-normal pcg64 seed 0 version 1"
Tensors = dict[str, tuple[np.ndarray, np.ndarray]]


class WeightsError(ValueError):
    """The weights cannot be used; the message gives the way out."""


def read_weights(backbone: Backbone, path: Path) -> Tensors:
    """Layer name → (kernel, bias), float32, from an HDF5 file of Keras 2 or Keras 3.

    Raises WeightsError where the file is missing, is not such a file, or is of another architecture.
    """
    try:
        with h5py.File(path) as file:
            found = {name: values for name, values in _layers(file) if values}
    except FileNotFoundError:
        raise WeightsError(f"--weights: there is no file {path}") from None
    except (
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
        KeyError,
    ) as error:  # h5py raises any of these
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"--weights: {path} cannot be read as HDF5 weights of Keras ({reason})") from error
    tensors = {}
    for name, shape in backbone.tensors:
        shapes = [value.shape for value in found.get(name, [])]
        if shapes != [shape, shape[-1:]]:
            raise WeightsError(
                f"--weights: {path} is not of {backbone.name}: layer {name} should hold {[shape, shape[-1:]]}, "
                f"the file has {shapes or 'no such layer'}"
            )
        kernel, bias = found[name]
        tensors[name] = (kernel, bias)
    return tensors


def _layers(file: h5py.File) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Each layer's name and arrays; Keras 3 keeps the name in an attribute, Keras 2 as the group's name."""
    layers = file["layers"] if "layers" in file else file.get("model_weights", file)
    for group_name, group in layers.items():
        if not isinstance(group, h5py.Group):
            continue
        values = group.get("vars", group)
        name = values.attrs.get("name", group_name)
        arrays: list[h5py.Dataset] = []
        values.visititems(lambda _, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)  # noqa: B023
        arrays.sort(key=lambda array: -array.ndim)  # kernel before bias, in both layouts
        yield name, [np.asarray(array, np.float32) for array in arrays]


def random_weights(backbone: Backbone) -> Tensors:
    """He-normal kernels (He et al. 2015: variance 2 / inputs) and zero biases, the same everywhere."""
    draw = np.random.Generator(np.random.PCG64(0))
    tensors = {}
    for name, shape in backbone.tensors:
        scale = np.sqrt(2.0 / np.prod(shape[:3]))
        kernel = draw.standard_normal(shape, np.float32) * np.float32(scale)
        tensors[name] = (kernel, np.zeros(shape[-1], np.float32))
    return tensors


def load_weights(backbone: Backbone, source: str) -> Tensors:
    """Tensors from `random`, `imagenet` or the path of a file."""
    if source == "random":
        return random_weights(backbone)
    return read_weights(backbone, imagenet_file(backbone) if source == "imagenet" else Path(source))


def tensors_digest(tensors: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """32 hex digits of the sha256 over names, shapes and little-endian float32 bytes, in network order."""
    hasher = hashlib.sha256()
    for name, arrays in tensors.items():
        for array in arrays:
            hasher.update(f"{name}{array.shape}".encode())
            hasher.update(np.ascontiguousarray(array, "<f4").tobytes())
    return hasher.hexdigest()[:32]


def weights_digest(backbone: Backbone, source: str, memo: Path) -> str:
    """The digest of the weights that `source` names, remembered in the JSON file `memo` by path, size and time."""
    if source == "random":
        return hashlib.sha256(f"{RANDOM_ALGORITHM} {backbone.name}".encode()).hexdigest()[:32]
    path = imagenet_file(backbone) if source == "imagenet" else Path(source)
    try:
        status = path.stat()
    except OSError as error:
        raise WeightsError(f"--weights: {path} cannot be read: {error.strerror}") from error
    key = f"{backbone.name} {path.resolve()} {status.st_size} {status.st_mtime_ns}"
    known = _read_memo(memo)
    if key not in known:
        known[key] = tensors_digest(read_weights(backbone, path))
        _write_memo(memo, known)
    return known[key]


def _read_memo(memo: Path) -> dict[str, str]:
    try:
        found = json.loads(memo.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_memo(memo: Path, known: dict[str, str]) -> None:
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(json.dumps(known, indent=1))
    except OSError:
        pass  # only time is lost: the next run hashes the file again


def imagenet_file(backbone: Backbone) -> Path:
    """Where Keras keeps the ImageNet weights; fetched by Keras if they are not there yet."""
    name = backbone.imagenet[0]
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    path = home / "models" / name
    if not path.exists():
        fetch = subprocess.run(
            [sys.executable, "-m", "vision.weights", backbone.name],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        if fetch.returncode or not path.exists():
            reason = (fetch.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise WeightsError(
                f"--weights imagenet: {name} could not be downloaded ({reason}). Ways out: a network that reaches "
                f"{backbone.imagenet[1]}; --weights PATH of that file or of a Keras 3 .weights.h5; or "
                "--weights random, for a trial without meaning"
            )
    return path


def _fetch(backbone: Backbone) -> None:
    import keras

    name, address, md5 = backbone.imagenet
    keras.utils.get_file(name, address, file_hash=md5, cache_subdir="models")


if __name__ == "__main__":
    _fetch(BACKBONES[sys.argv[1]])
