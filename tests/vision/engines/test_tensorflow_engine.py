import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.vision.backbones.test_weights import VGG16
from vision.backbones.weights import weights_digest
from vision.backbones.weights_file import read_weights
from vision.engines.extract import extract
from vision.engines.tensorflow_engine import TensorFlowEngine, batch_size_for
from vision.specs import FeatureSpec


def pixels(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The worst image's L2 distance, as a part of the length of what was expected."""
    found, expected = (a.reshape(len(a), -1).astype(np.float64) for a in (found, expected))
    return (np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max()


def test_features_of_the_engine_are_those_of_keras_with_the_same_weights(engine, spec, tensors):
    import keras

    network = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    for name, arrays in tensors.items():
        network.get_layer(name).set_weights(arrays)
    values = keras.applications.vgg16.preprocess_input(pixels(3).astype(np.float32))
    found = engine.features(pixels(3))
    assert found.dtype == np.float32
    assert found.shape == (3, *spec.shape)
    assert relative_error(found, np.asarray(network(values, training=False))) < 1e-5


@pytest.fixture(scope="module")
def five(engine) -> np.ndarray:
    """Features of pixels(5)."""
    return engine.features(pixels(5))


def test_a_feature_does_not_depend_on_its_neighbours(engine, five):
    others = pixels(5, seed=1)
    others[2] = pixels(5)[2]
    assert np.array_equal(engine.features(others)[2], five[2])


def test_a_feature_does_not_depend_on_its_place_nor_on_how_many_came(engine, five):
    full = pixels(engine.batch_size, seed=1)
    full[-5:] = pixels(5)
    assert np.array_equal(engine.features(full)[-5:], five)
    assert np.array_equal(engine.features(pixels(5)[-1:])[0], five[-1])


def test_features_of_different_images_differ(five):
    assert len(np.unique(five.reshape(5, -1), axis=0)) == 5


def test_an_engine_for_other_threads_is_had_where_tensorflow_runs_already(spec, tensors, five):
    assert relative_error(TensorFlowEngine(spec, tensors, threads=2).features(pixels(5)), five) < 1e-6


def test_more_images_than_a_batch_has_room_for_are_taken_in_turn(engine, five):
    many = np.concatenate([pixels(engine.batch_size, seed=1), pixels(5)])
    assert np.array_equal(engine.features(many)[-5:], five)


def test_out_of_memory_halves_the_batch_until_it_fits_and_loses_no_image(spec, tensors, five, caplog):
    import tensorflow as tf

    small = TensorFlowEngine(spec, tensors, threads=1)
    room, whole = small.batch_size // 4, small._run

    def run(batch):
        if len(batch) > room:
            raise tf.errors.ResourceExhaustedError(None, None, "no room")
        return whole(batch)

    small._run = run
    found = small.features(np.concatenate([pixels(20, seed=1), pixels(5)]))
    assert small.batch_size == room
    assert relative_error(found[-5:], five) < 1e-6
    assert f"batches have {room} image" in caplog.text


def test_an_image_that_alone_is_too_large_for_the_memory_is_an_error(spec, tensors):
    import tensorflow as tf

    full = TensorFlowEngine(spec, tensors, threads=1)

    def run(batch):
        raise tf.errors.ResourceExhaustedError(None, None, "no room")

    full._run = run
    with pytest.raises(tf.errors.ResourceExhaustedError):
        full.features(pixels(3))
    assert full.batch_size == 1


def test_float16_storage_costs_less_than_five_ten_thousandths(engine, five):
    stored = extract(engine, [(bytes([i]), lambda i=i: png(pixels(5)[i]), [0]) for i in range(5)])
    assert stored.features.dtype == np.float16
    assert 0 < relative_error(stored.features, five) < 5e-4


def png(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, "PNG")
    return sink.getvalue()


@pytest.mark.parametrize(("size", "batch"), [(32, 32), (64, 32), (224, 16), (448, 4), (1000, 1), (5000, 1)])
def test_the_batch_shape_depends_on_the_image_size_alone(size, batch):
    assert batch_size_for(size) == batch
    assert batch_size_for(size, on_gpu=True) >= batch


@pytest.mark.weights
@pytest.mark.skipif("VGG16_WEIGHTS" not in os.environ, reason="VGG16_WEIGHTS names no file of VGG16 notop weights")
def test_features_of_the_real_weights_are_those_of_keras(engine, tmp_path):
    import keras

    path = os.environ["VGG16_WEIGHTS"]
    own = FeatureSpec(weights_digest(VGG16, path, tmp_path / "memo.json"), dtype="float32")
    batch = pixels(2, size=224)
    network = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
    network.load_weights(path)
    expected = network(keras.applications.vgg16.preprocess_input(batch.astype(np.float32)), training=False)
    found = TensorFlowEngine(own, read_weights(VGG16, Path(path)), threads=1).features(batch)
    assert found.shape == (2, 7, 7, 512)
    assert relative_error(found, np.asarray(expected)) < 1e-5
