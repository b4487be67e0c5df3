"""Read weights from a file that Keras saved, and write them as Keras 3 does."""

import io
from pathlib import Path

import h5py
import numpy as np

from vision.errors import WeightsError
from vision.specs import Backbone

Tensors = dict[str, tuple[np.ndarray, ...]]


def read_weights(backbone: Backbone, path: Path) -> Tensors:
    """Layer name → its float32 arrays in Keras' order, from an HDF5 file of Keras 2 or Keras 3.

    The backbone may be part of a larger model, for example below a head. Raises WeightsError if the file is missing, is
    no such file, or belongs to another architecture.
    """
    try:
        with h5py.File(path) as file:
            layers = _layers(file)
            shapes = {name: [array.shape for array in layers.get(name, ())] for name in backbone.tensors}
            expected = {name: [array.shape for array in layer] for name, layer in backbone.tensors.items()}
            found = {
                name: tuple(np.asarray(array, np.float32) for array in layers[name])
                for name in backbone.tensors
                if shapes[name] == expected[name]  # a false shape could claim any amount of memory
            }
            kernels = [name for name, arrays in layers.items() if any(array.ndim == 4 for array in arrays)]
    except FileNotFoundError:
        raise WeightsError(f"`weights`: there is no file {path}") from None
    except (
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
        KeyError,
    ) as error:  # h5py raises any of these
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"`weights`: {path} cannot be read as HDF5 weights of Keras ({reason})") from error
    for name in backbone.tensors:
        if name not in found:
            raise WeightsError(
                f"`weights`: {path} does not fit {backbone.name}: expected layer {name} with shapes {expected[name]}, "
                f"found {shapes[name] or 'no such layer'}"
            )
    # VGG19 has all layers of VGG16, with the same names and shapes; so has ResNet101 those of ResNet50.
    foreign = [name for name in kernels if name not in backbone.tensors]
    if foreign:
        raise WeightsError(f"`weights`: {path} does not fit {backbone.name}, which has no layer {foreign[0]}")
    return found


def weights_bytes(tensors: Tensors) -> bytes:
    """The tensors as an HDF5 file in Keras 3's layout, which `read_weights` and Keras' `load_weights` read."""
    sink = io.BytesIO()
    with h5py.File(sink, "w") as file:
        for name, arrays in tensors.items():
            group = file.create_group(f"layers/{name}/vars")
            group.attrs["name"] = name
            for number, array in enumerate(arrays):
                group.create_dataset(str(number), data=np.asarray(array, np.float32))
    return sink.getvalue()


def _layers(file: h5py.File) -> dict[str, list[h5py.Dataset]]:
    """Layer name → its arrays in Keras' order, at any depth of nested models.

    Keras 3 numbers the arrays in a group `vars` whose attribute is the name of the layer. Keras 2 lists the names of the
    arrays in an attribute of a group, in pieces (weight_names0, …) above 64 KB. A name is `block1_conv1_W_1:0` in the
    layer's group, or `conv1_conv/kernel:0` in the group of the outermost model or layer.
    """
    layers: dict[str, list[h5py.Dataset]] = {}

    def visit(_: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) or item.name.startswith("/optimizer"):
            return  # an optimizer has arrays under the names of layers, too
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
    """An array of this file. Raises ValueError if HDF5 would open another file for it."""
    item = group
    for part in path.strip("/").split("/"):
        # `get_info` reads the link alone; indexing the group would open the other file.
        if item.id.links.get_info(part.encode()).type == h5py.h5l.TYPE_EXTERNAL:
            raise ValueError(f"{path} is a link to another file")
        item = item[part]
    if item.external or item.is_virtual:
        raise ValueError(f"{path} is kept in another file")
    return item
