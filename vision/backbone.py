"""The frozen network in Keras, from raw pixels to features."""

from importlib import import_module

import keras
from keras import layers

from vision.specs import BACKBONES, FeatureSpec
from vision.weights import Tensors


def build_backbone(spec: FeatureSpec, tensors: Tensors) -> keras.Model:
    """A model from (n, size, size, 3) uint8 RGB to (n, *spec.shape) float32, with `tensors` set and frozen."""
    keras.mixed_precision.set_global_policy(spec.precision)
    keras.config.set_image_data_format("channels_last")  # whatever the user's keras.json says
    module_name, _, function = BACKBONES[spec.backbone].application.partition(":")
    module = import_module(module_name)
    pixels = keras.Input((spec.image_size, spec.image_size, 3), dtype="uint8")
    network = getattr(module, function)(
        weights=None,
        include_top=False,
        input_shape=(spec.image_size, spec.image_size, 3),
        pooling=None if spec.pooling == "none" else spec.pooling,
    )
    for name, arrays in tensors.items():
        network.get_layer(name).set_weights(arrays)
    network.trainable = False
    values = layers.Lambda(lambda x: module.preprocess_input(keras.ops.cast(x, "float32")), dtype="float32")(pixels)
    features = layers.Activation("linear", dtype="float32")(network(values))
    return keras.Model(pixels, features, name=spec.backbone)
