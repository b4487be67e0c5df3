"""Every backbone against Keras' own: names and shapes, sizes, weights files, features."""

from contextlib import suppress
from importlib import import_module
from math import sqrt

import numpy as np
import pytest

from tests.memo import random_weights
from tests.vision.backbones.test_weights import DESCRIBED
from tests.vision.engines.test_tensorflow_engine import pixels, relative_error
from vision.backbones.weights_file import Tensors, read_weights
from vision.specs import BACKBONES, Backbone, FeatureSpec, Tensor

pytestmark = [
    # Keras 3.15 on NumPy 2, wherever it saves: keras/src/backend/tensorflow/core.py, convert_to_numpy.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

SIZE = 40  # one cell of a VGG, two by two of a ResNet
PARITY = 3e-4  # relative L2 an image


def application(backbone: Backbone, **options):
    """Keras' own network, without its top."""
    module, function = backbone.application.split(":")
    return getattr(import_module(module), function)(**{"weights": None, "include_top": False} | options)


def preprocess(backbone: Backbone, batch: np.ndarray) -> np.ndarray:
    """The batch as Keras' own preprocessing gives it."""
    return import_module(backbone.application.split(":")[0]).preprocess_input(batch.astype(np.float32))


def uneven(backbone: Backbone, seed: int = 0) -> Tensors:
    """Random weights in which no two arrays of a layer are alike, so that none can stand for another."""
    draw = np.random.default_rng(seed)

    def shaken(array: np.ndarray) -> np.ndarray:
        return np.abs(array + draw.normal(0, 0.1, array.shape)).astype(np.float32) if array.ndim == 1 else array

    return {name: tuple(shaken(array) for array in arrays) for name, arrays in random_weights(backbone).items()}


def set_weights(network, tensors: Tensors) -> None:
    for name, arrays in tensors.items():
        network.get_layer(name).set_weights(arrays)


def of_keras(backbone: Backbone, network, batch: np.ndarray) -> np.ndarray:
    return np.asarray(network(preprocess(backbone, batch), training=False))


def of_ours(spec: FeatureSpec, tensors: Tensors, batch: np.ndarray) -> np.ndarray:
    from vision.backbones.keras_model import (
        build_backbone,  # not at the top: the engine sets TensorFlow up before its import
    )

    return np.asarray(build_backbone(spec, tensors)(batch, training=False))


@pytest.fixture(scope="module", params=DESCRIBED)
def backbone(request) -> Backbone:
    return BACKBONES[request.param]


@pytest.fixture(scope="module")
def tensors(backbone) -> Tensors:
    return uneven(backbone)


@pytest.fixture(scope="module")
def network(engine, backbone, tensors):
    """Keras' own for images of any size, with `tensors`."""
    found = application(backbone)
    set_weights(found, tensors)
    return found


@pytest.fixture(scope="module")
def maps(backbone, network) -> np.ndarray:
    """The last feature maps of pixels(3, SIZE), by Keras."""
    return of_keras(backbone, network, pixels(3, SIZE))


@pytest.fixture(scope="module")
def ours(backbone, tensors, engine) -> np.ndarray:
    """The same maps, by us."""
    return of_ours(FeatureSpec("", backbone.name, SIZE), tensors, pixels(3, SIZE))


def test_layers_and_shapes_are_those_of_keras(backbone, network):
    keras_own = {layer.name: [tuple(w.shape) for w in layer.weights] for layer in network.layers if layer.weights}
    assert {name: [t.shape for t in layer] for name, layer in backbone.tensors.items()} == keras_own


def test_the_feature_map_has_the_shape_that_keras_gives_it_at_every_size(backbone, network):
    sizes = [*range(backbone.smallest_image, 100), 149, 150, 192, 223, 224, 225, 255, 256, 257, 299, 448, 500, 1000]
    ours = [FeatureSpec("", backbone.name, size).shape for size in sizes]
    assert ours == [network.compute_output_shape((1, size, size, 3))[1:] for size in sizes]


def test_keras_takes_no_smaller_image(backbone, engine):
    least = backbone.smallest_image
    with pytest.raises(ValueError, match=f"Input size must be at least {least}x{least}"):
        application(backbone, input_shape=(least - 1, least - 1, 3))


def test_features_are_those_of_keras_with_the_same_weights(ours, maps):
    assert ours.dtype == np.float32
    assert ours.shape == maps.shape
    assert relative_error(ours, maps) < PARITY


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_pooled_features_are_those_that_keras_pools(backbone, tensors, maps, pooling):
    from keras import layers

    spec = FeatureSpec("", backbone.name, SIZE, pooling)
    found = of_ours(spec, tensors, pixels(3, SIZE))
    pool = layers.GlobalAveragePooling2D() if pooling == "avg" else layers.GlobalMaxPooling2D()
    assert found.shape == (3, *spec.shape)
    assert relative_error(found, np.asarray(pool(maps))) < PARITY


def test_mixed_precision_gives_other_features_but_hardly(backbone, tensors, ours):
    mixed = of_ours(FeatureSpec("", backbone.name, SIZE, precision="mixed_float16"), tensors, pixels(3, SIZE))
    assert 0 < relative_error(mixed, ours) < 5e-3


def test_features_do_not_depend_on_the_data_format_of_the_users_keras(backbone, tensors, ours):
    import keras

    keras.config.set_image_data_format("channels_first")
    try:
        found = of_ours(FeatureSpec("", backbone.name, SIZE), tensors, pixels(3, SIZE))
    finally:
        keras.config.set_image_data_format("channels_last")
    assert np.array_equal(found, ours)


@pytest.mark.parametrize("file", ["keras3.weights.h5", "keras2.h5"])
def test_weights_saved_by_keras_are_read_to_the_bit(backbone, tensors, network, file, tmp_path):
    (network.save if file == "keras2.h5" else network.save_weights)(tmp_path / file)
    found = read_weights(backbone, tmp_path / file)
    assert list(found) == list(tensors)
    assert all(np.array_equal(one, other) for n in tensors for one, other in zip(found[n], tensors[n], strict=True))


@pytest.mark.parametrize(
    ("name", "size"),
    [("vgg16", 32), ("vgg19", 32), ("resnet50", 32), pytest.param("resnet50", 224, marks=pytest.mark.slow)],
)
def test_features_of_random_weights_are_alive_and_fit_float16(engine, name, size):
    batch = np.concatenate([pixels(1, size), np.full((1, size, size, 3), 255, np.uint8)])
    found = of_ours(FeatureSpec("", name, size), random_weights(BACKBONES[name]), batch)
    assert 1 < found.max() < 6e4
    assert (found > 0).mean() > 0.2
    assert np.isfinite(found).all()


def test_the_imagenet_file_is_the_one_that_keras_asks_for(backbone, engine, monkeypatch):
    import keras.src.utils.file_utils

    asked = []

    def get_file(name, address, file_hash, **_):
        asked.append((name, address, file_hash))
        raise FileNotFoundError  # so far and no farther: nothing is downloaded

    monkeypatch.setattr(keras.src.utils.file_utils, "get_file", get_file)
    with suppress(FileNotFoundError):
        application(backbone, weights="imagenet")
    assert asked == [backbone.imagenet]


# A backbone is an entry, and nothing else


def mobilenet() -> Backbone:
    """MobileNet, version 1: another preprocessing, another rule of sizes, kernels without a bias."""

    def batch_norm(channels: int) -> tuple[Tensor, ...]:
        return tuple(Tensor((channels,), value) for value in (1.0, 0.0, 0.0, 1.0))

    tensors, channels = {"conv1": (Tensor((3, 3, 3, 32), 0, sqrt(2 / 27)),), "conv1_bn": batch_norm(32)}, 32
    for number, width in enumerate((64, 128, 128, 256, 256, *[512] * 6, 1024, 1024), 1):
        tensors[f"conv_dw_{number}"] = (Tensor((3, 3, channels, 1), 0, sqrt(2 / 9)),)
        tensors[f"conv_dw_{number}_bn"] = batch_norm(channels)
        tensors[f"conv_pw_{number}"] = (Tensor((1, 1, channels, width), 0, sqrt(2 / channels)),)
        tensors[f"conv_pw_{number}_bn"] = batch_norm(width)
        channels = width
    return Backbone(
        name="mobilenet",
        application="keras.applications.mobilenet:MobileNet",
        preprocessing="pillow-rgb bilinear tf 1",
        tensors=tensors,
        channels=1024,
        side=lambda pixels: -(-pixels // 2) // 16,
        smallest_image=32,
        imagenet=("", "", ""),
    )


@pytest.mark.parametrize("entry", [*map(BACKBONES.get, DESCRIBED), mobilenet()], ids=lambda entry: entry.name)
def test_the_record_names_the_preprocessing_that_keras_does(entry, engine):
    from keras.applications import imagenet_utils

    batch = pixels(1, SIZE)
    same = [
        mode
        for mode in ("caffe", "tf", "torch")
        if np.array_equal(
            preprocess(entry, batch), imagenet_utils.preprocess_input(batch.astype(np.float32), mode=mode)
        )
    ]
    assert [entry.preprocessing] == [f"pillow-rgb bilinear {mode} 1" for mode in same]


def test_an_entry_is_all_that_a_new_backbone_takes(engine, monkeypatch, tmp_path):
    entry = mobilenet()
    monkeypatch.setitem(BACKBONES, "mobilenet", entry)
    spec = FeatureSpec("", "mobilenet", SIZE)
    assert spec.record()["preprocessing"] == "pillow-rgb bilinear tf 1"
    tensors = uneven(entry)
    network = application(entry, input_shape=(SIZE, SIZE, 3))
    set_weights(network, tensors)
    network.save_weights(tmp_path / "mobilenet.weights.h5")
    found = of_ours(spec, read_weights(entry, tmp_path / "mobilenet.weights.h5"), pixels(3, SIZE))
    assert found.shape == (3, *spec.shape)
    assert relative_error(found, of_keras(entry, network, pixels(3, SIZE))) < PARITY
