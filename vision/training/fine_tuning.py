"""Fine-tuning: the last blocks of a backbone and the head as one model to train, and the whole network to save.

During training an engine (vision/engines) computes the frozen blocks below. In the end the frozen blocks, the tuned blocks
and the head become one Keras model that loads without code of this project.
"""

from collections.abc import Callable
from itertools import groupby

from vision.backbones.preprocessing import preprocessing_layers
from vision.backbones.vgg_reference import parted
from vision.backbones.weights_file import Tensors
from vision.errors import HeadError
from vision.specs import FeatureSpec, cut_shape
from vision.training.head import Optimizer
from vision.training.head_model import compile_classifier


def build_tunable(
    spec: FeatureSpec, tensors: Tensors, head, before: str, optimizer: Optimizer, learning_rate: float | None, seed: int
):
    """A compiled Keras model from the maps below a block, (n, *cut_shape(spec, before)), to the outputs of the head.

    Trainable are the block `before` and those after it, which start with the backbone's weights, and copies of the layers of
    `head`. The standardisation of the head stays fixed. Everything is float32; features are not rounded to the dtype of
    the store. seed: of the dropout. Loss and metrics are those of the head. Raises SpecError if the backbone cannot be cut
    there, HeadError if the head takes other features.
    """
    import keras

    shape = cut_shape(spec, before)
    if tuple(head.input_shape[1:]) != spec.shape:
        raise HeadError(f"the head takes features of shape {head.input_shape[1:]}, this backbone gives {spec.shape}")
    keras.mixed_precision.set_global_policy("float32")
    keras.utils.set_random_seed(seed)
    maps = keras.Input(shape, name="maps")
    values = _through(maps, parted(tensors, before)[1], is_trained=True)
    outputs = through_head(_pooled(values, spec), head, seed)
    model = keras.Model(maps, outputs, name="tunable")
    compile_classifier(model, optimizer, learning_rate)
    return model


def build_whole(spec: FeatureSpec, tensors: Tensors, tunable):
    """A Keras model from (n, size, size, 3) uint8 RGB to the outputs of `tunable`, whose layers it shares.

    It has only layers of Keras, so it loads in safe mode without code of this project. Below the tuned blocks it has the
    backbone's `tensors`, frozen. It is compiled, so that it can be evaluated. Everything is float32.
    """
    import keras

    keras.mixed_precision.set_global_policy("float32")
    pixels = keras.Input((spec.image_size, spec.image_size, 3), dtype="uint8", name="pixels")
    tuned = {layer.name for layer in tunable.layers}
    frozen = {name: arrays for name, arrays in tensors.items() if name not in tuned}
    values = _through(preprocessing_layers(pixels, spec), frozen, is_trained=False)
    outputs = _applied(tunable, values, lambda layer: layer)
    model = keras.Model(pixels, outputs, name=f"{spec.backbone}_with_head")
    compile_classifier(model, "sgd", None)  # SGD has no state, and nobody resumes from here
    return model


def _through(values, tensors: Tensors, is_trained: bool):
    """The VGG blocks of these tensors applied to `values`: 3x3 convolutions with relu, then a 2x2 max pooling each."""
    from keras import layers

    for block, names in groupby(tensors, lambda name: name.partition("_")[0]):
        for name in names:
            kernel, bias = tensors[name]
            layer = layers.Conv2D(
                len(bias),
                kernel.shape[:2],
                padding="same",
                activation="relu",
                data_format="channels_last",
                trainable=is_trained,
                name=name,
            )
            values = layer(values)
            layer.set_weights([kernel, bias])
        values = layers.MaxPooling2D(2, data_format="channels_last", name=f"{block}_pool")(values)
    return values


def _pooled(maps, spec: FeatureSpec):
    from keras import layers

    if spec.pooling == "none":
        return maps
    pooling = layers.GlobalAveragePooling2D if spec.pooling == "avg" else layers.GlobalMaxPooling2D
    return pooling(data_format="channels_last", name="pooling")(maps)


def through_head(values, head, seed: int = 0):
    """Copies of the head's layers applied to `values`. The dropout starts from `seed`."""
    from keras import layers

    def copy(own):
        config = own.get_config()
        if isinstance(own, layers.Dropout):
            config["seed"] = seed
        return type(own).from_config(config)

    return _applied(head, values, copy)


def _applied(model, values, layer_of: Callable):
    """The graph of a model from its input on, applied to `values`, with `layer_of(layer)` in the place of each layer."""
    found = {id(model.input): values}
    for own in model.operations[1:]:
        layer, given = layer_of(own), own.input
        found[id(own.output)] = layer(
            [found[id(one)] for one in given] if isinstance(given, list) else found[id(given)]
        )
        if layer is not own:
            layer.set_weights(own.get_weights())
    return found[id(model.output)]
