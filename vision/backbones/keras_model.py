"""The frozen network as a Keras model, from pixels to features."""

import json
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import keras
from keras import layers

from vision.backbones.own_file import CONFIG, NETWORK
from vision.backbones.preprocessing import preprocessing_layers
from vision.backbones.vgg_reference import parted
from vision.backbones.weights_file import Tensors
from vision.specs import FeatureSpec, backbone_of, cut_shape


def build_backbone(spec: FeatureSpec, tensors: Tensors, before: str | None = None) -> keras.Model:
    """A model from (n, size, size, 3) uint8 RGB to (n, *cut_shape(spec, before)) float32, with `tensors` set and frozen.

    before: the block in front of which the model ends; None is the whole network. Raises SpecError if there is no such
    block.
    """
    cut_shape(spec, before)  # raises if there is no such block
    keras.mixed_precision.set_global_policy(spec.precision)
    keras.config.set_image_data_format("channels_last")  # overrides the user's keras.json
    pixels = keras.Input((spec.image_size, spec.image_size, 3), dtype="uint8", name="pixels")
    values = preprocessing_layers(pixels, spec)
    output = _of_file(values, spec, tensors) if NETWORK in tensors else _of_table(values, spec, tensors, before)
    features = layers.Activation("linear", dtype="float32", name="features")(output)
    return keras.Model(pixels, features, name=spec.backbone)


def _of_table(values, spec: FeatureSpec, tensors: Tensors, before: str | None):
    """The output of a network that an entry of BACKBONES describes."""
    module_name, _, function = backbone_of(spec.backbone).application.partition(":")
    network = getattr(import_module(module_name), function)(
        weights=None,
        include_top=False,
        input_tensor=values,
        pooling=None if spec.pooling == "none" else spec.pooling,
    )
    below, _ = parted(tensors, before)
    for name, arrays in below.items():
        network.get_layer(name).set_weights(arrays)
    network.trainable = False
    if before is None:
        return network.output
    last_block = next(reversed(below)).partition("_")[0]
    return network.get_layer(f"{last_block}_pool").output


def _of_file(values, spec: FeatureSpec, tensors: Tensors):
    """The output of a network that Keras describes. Its layers become layers of the new model."""
    with TemporaryDirectory() as folder:
        path = Path(folder, NETWORK)
        path.write_bytes(tensors[NETWORK][0].tobytes())
        if spec.precision != "float32":
            path = _in_precision(path, spec.precision)
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
    network.trainable = False
    maps = network.call(values, training=False)
    if spec.pooling == "none":
        return maps
    pooling = layers.GlobalAveragePooling2D if spec.pooling == "avg" else layers.GlobalMaxPooling2D
    return pooling(data_format="channels_last", name="pooling")(maps)


def _in_precision(path: Path, precision: str) -> Path:
    """A copy of a `.keras` file in which layers of float32 have another policy, as if Keras had built them with it."""
    made = path.with_name("other.keras")
    with ZipFile(path) as given, ZipFile(made, "w") as other:
        for member in given.infolist():
            data = given.read(member)
            if member.filename == CONFIG:
                data = json.dumps(_with_policy(json.loads(data), precision)).encode()
            other.writestr(member, data)
    return made


def _with_policy(config: Any, precision: str) -> Any:
    if isinstance(config, list):
        return [_with_policy(each, precision) for each in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy" and config["config"].get("name") == "float32":
        return config | {"config": {"name": precision}}
    return {name: _with_policy(each, precision) for name, each in config.items()}
