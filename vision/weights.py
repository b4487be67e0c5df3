"""The backbone's weights as numpy tensors: from a file, from ImageNet, or drawn from a seed. No Keras in here.

`python -m vision.weights` fetches the ImageNet file with Keras, in a process of its own.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

from vision.specs import BACKBONES, Backbone, Tensor

RANDOM_ALGORITHM = "he-normal pcg64 seed 0 version 1"
Tensors = dict[str, tuple[np.ndarray, ...]]


class WeightsError(ValueError):
    """The weights cannot be used; the message gives the way out."""


def read_weights(backbone: Backbone, path: Path) -> Tensors:
    """Layer name → its arrays in Keras' order, float32, from an HDF5 file of Keras 2 or Keras 3.

    The backbone may lie in a larger model of the file, as under a head. Raises WeightsError where the file
    is missing, is not such a file, or is of another architecture.
    """
    try:
        with h5py.File(path) as file:
            layers = _layers(file)
            shapes = {name: [array.shape for array in layers.get(name, ())] for name in backbone.tensors}
            expected = {name: [array.shape for array in layer] for name, layer in backbone.tensors.items()}
            found = {
                name: tuple(np.asarray(array, np.float32) for array in layers[name])
                for name in backbone.tensors
                if shapes[name] == expected[name]  # of a file that lies nothing is read
            }
            kernels = [name for name, arrays in layers.items() if any(array.ndim == 4 for array in arrays)]
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
    for name in backbone.tensors:
        if name not in found:
            raise WeightsError(
                f"--weights: {path} is not of {backbone.name}: layer {name} should hold {expected[name]}, "
                f"the file has {shapes[name] or 'no such layer'}"
            )
    # VGG19 has every layer of VGG16, in name and shape, and ResNet101 those of ResNet50.
    foreign = [name for name in kernels if name not in backbone.tensors]
    if foreign:
        raise WeightsError(f"--weights: {path} is not of {backbone.name}, which has no convolution {foreign[0]}")
    return found


def _layers(file: h5py.File) -> dict[str, list[h5py.Dataset]]:
    """Each layer's name and arrays in Keras' order, however deep its model lies in another.

    Keras 3 numbers them in a group `vars` that has the name as an attribute. Keras 2 lists them in an
    attribute of a group, cut in pieces (weight_names0, …) beyond 64 KB: as `block1_conv1_W_1:0` in the
    layer's group, or as `conv1_conv/kernel:0`, in the group of the outermost model or layer.
    """
    layers: dict[str, list[h5py.Dataset]] = {}

    def visit(_: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) or item.name.startswith("/optimizer"):
            return  # an optimizer has arrays by the layers' names, too
        parent, own = item.name.split("/")[-2:]
        if own == "vars":
            numbers = [str(number) for number in range(len(item))]
            layers[item.attrs.get("name", parent)] = [_array(item, number) for number in numbers if _has(item, number)]
        for attribute in sorted(key for key in item.attrs if key.startswith("weight_names")):
            for name in item.attrs[attribute]:
                text = name.decode() if isinstance(name, bytes) else name
                layer = text.split("/")[-2] if "/" in text else own
                layers.setdefault(layer, []).append(_array(item, text))

    file.visititems(visit)
    return layers


def _has(group: h5py.Group, name: str) -> bool:
    return group.id.links.exists(name.encode())


def _array(group: h5py.Group, path: str) -> h5py.Dataset:
    """An array that lies in this very file. Raises ValueError where HDF5 would open another one for it."""
    item = group
    for part in path.strip("/").split("/"):
        # Asked of h5py's groups themselves, the question would open the other file.
        if item.id.links.get_info(part.encode()).type == h5py.h5l.TYPE_EXTERNAL:
            raise ValueError(f"{path} is a link to another file")
        item = item[part]
    if item.external or item.is_virtual:
        raise ValueError(f"{path} is kept in another file")
    return item


def random_weights(backbone: Backbone) -> Tensors:
    """Tensors as the backbone's entry says, in its order, from one generator: the same everywhere."""
    generator = np.random.Generator(np.random.PCG64(0))
    return {name: tuple(_draw(generator, tensor) for tensor in layer) for name, layer in backbone.tensors.items()}


def _draw(generator: np.random.Generator, tensor: Tensor) -> np.ndarray:
    if not tensor.deviation:
        return np.full(tensor.shape, tensor.value, np.float32)
    return generator.standard_normal(tensor.shape, np.float32) * np.float32(tensor.deviation)


def load_weights(backbone: Backbone, source: str) -> Tensors:
    """Tensors from `random`, `imagenet` or the path of a file."""
    if source == "random":
        return random_weights(backbone)
    return read_weights(backbone, imagenet_file(backbone) if source == "imagenet" else Path(source))


def tensors_digest(tensors: Tensors) -> str:
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
    """Digests of files seen before; none where a digit of it was changed, for that would be another feature space."""
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
