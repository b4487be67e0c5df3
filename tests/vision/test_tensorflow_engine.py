import dataclasses
import io
import os

import numpy as np
import pytest
from PIL import Image

from tests.vision.test_weights import VGG16, write_keras2
from vision.engines import TensorFlowEngine, batch_size_for, load_engine
from vision.extraction import extract
from vision.specs import FeatureSpec
from vision.weights import WeightsError, tensors_digest, weights_digest


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


def test_more_images_than_the_batch_has_room_for_are_refused(engine):
    with pytest.raises(ValueError, match="broadcast"):
        engine.features(pixels(engine.batch_size + 1))


def test_float16_storage_costs_less_than_five_ten_thousandths(engine, five):
    stored = extract(engine, [(bytes([i]), lambda i=i: png(pixels(5)[i])) for i in range(5)])
    assert stored.features.dtype == np.float16
    assert 0 < relative_error(stored.features, five) < 5e-4


def png(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, "PNG")
    return sink.getvalue()


@pytest.mark.parametrize(("size", "batch"), [(32, 32), (64, 32), (224, 16), (448, 4), (1000, 1), (5000, 1)])
def test_the_batch_shape_depends_on_the_image_size_alone(size, batch):
    assert batch_size_for(size) == batch


def test_weights_that_are_not_those_of_the_spec_any_more_are_refused(engine, spec, tensors, tmp_path):
    path = write_keras2(tmp_path / "mine.h5", tensors)
    with pytest.raises(WeightsError, match="changed while the run was going on"):
        TensorFlowEngine(dataclasses.replace(spec, weights="0" * 32), str(path), threads=1)


def test_an_engine_from_a_file_of_the_random_tensors_gives_the_same_features(engine, spec, tensors, five, tmp_path):
    path = write_keras2(tmp_path / "mine.h5", tensors)
    own = dataclasses.replace(spec, weights=tensors_digest(tensors))
    assert np.array_equal(TensorFlowEngine(own, str(path), threads=1).features(pixels(5)), five)


def test_the_engine_of_a_spec_is_loaded_once(engine, spec):
    assert load_engine(spec, "random", 1) is load_engine(spec, "random", 1)


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
    found = TensorFlowEngine(own, path, threads=1).features(batch)
    assert found.shape == (2, 7, 7, 512)
    assert relative_error(found, np.asarray(expected)) < 1e-5
