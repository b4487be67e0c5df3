"""The frozen network as a Keras model, from pixels to features."""

from importlib import import_module

import keras
from keras import layers

from vision.backbones.preprocessing import preprocessing_layers
from vision.backbones.vgg_reference import parted
from vision.backbones.weights_file import Tensors
from vision.specs import BACKBONES, FeatureSpec, cut_shape


def build_backbone(spec: FeatureSpec, tensors: Tensors, before: str | None = None) -> keras.Model:
    """A model from (n, size, size, 3) uint8 RGB to (n, *cut_shape(spec, before)) float32, with `tensors` set and frozen.

    before: the block in front of which the model ends; None is the whole network. Raises SpecError if there is no such
    block.
    """
    cut_shape(spec, before)  # raises if there is no such block
    keras.mixed_precision.set_global_policy(spec.precision)
    keras.config.set_image_data_format("channels_last")  # overrides the user's keras.json
    module_name, _, function = BACKBONES[spec.backbone].application.partition(":")
    pixels = keras.Input((spec.image_size, spec.image_size, 3), dtype="uint8", name="pixels")
    network = getattr(import_module(module_name), function)(
        weights=None,
        include_top=False,
        input_tensor=preprocessing_layers(pixels, spec),
        pooling=None if spec.pooling == "none" else spec.pooling,
    )
    below, _ = parted(tensors, before)
    for name, arrays in below.items():
        network.get_layer(name).set_weights(arrays)
    network.trainable = False
    last = network
    if before is not None:
        last_block = next(reversed(below)).partition("_")[0]
        last = network.get_layer(f"{last_block}_pool")
    features = layers.Activation("linear", dtype="float32", name="features")(last.output)
    return keras.Model(pixels, features, name=spec.backbone)
