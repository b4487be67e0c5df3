"""MNN against TensorFlow, and a feature against the same one at another place of a batch."""

import dataclasses
from functools import lru_cache

import numpy as np
import pytest

from tests.vision.engines.test_tensorflow_engine import pixels, relative_error
from vision.backbones.weights_file import Tensors
from vision.engines import mnn_engine
from vision.engines.facts import cache_folder
from vision.engines.mnn_engine import MnnEngine
from vision.engines.parity import LARGEST_ERROR
from vision.specs import FeatureSpec


def measured(spec: FeatureSpec, tensors: Tensors) -> MnnEngine:
    engine = MnnEngine(spec, tensors, threads=1)
    engine.adopt(engine.measure())
    return engine


@pytest.fixture(scope="module")
def of_tensorflow(engine, spec, tensors):
    """TensorFlow's features of pixels(9, size) by size and pooling."""
    from vision.engines.tensorflow_engine import TensorFlowEngine

    def features(size: int, pooling: str) -> np.ndarray:
        own = dataclasses.replace(spec, image_size=size, pooling=pooling)
        return TensorFlowEngine(own, tensors, threads=1).features(pixels(9, size))

    return lru_cache(features)


@pytest.mark.parametrize(("size", "pooling", "dtype"), [(32, "none", "float32"), (75, "max", "float16")])
def test_mnn_gives_the_features_of_tensorflow_within_its_bound(of_tensorflow, spec, tensors, dtype, size, pooling):
    own = dataclasses.replace(spec, dtype=dtype, image_size=size, pooling=pooling)
    found = measured(own, tensors).features(pixels(9, size))
    assert (found.shape, found.dtype) == ((9, *own.shape), np.float32)
    assert relative_error(found, of_tensorflow(size, pooling)) < LARGEST_ERROR[dtype]


@pytest.fixture(scope="module")
def mnns(spec, tensors):
    """Engines by image size, each made once."""
    return lru_cache(lambda size: measured(dataclasses.replace(spec, image_size=size), tensors))


@pytest.fixture(scope="module")
def mnn(mnns) -> MnnEngine:
    return mnns(32)


def test_with_mnn_a_feature_does_not_depend_on_its_neighbours_nor_on_how_many_came(mnn):
    alone = mnn.features(pixels(3))
    others = pixels(mnn.batch_size, seed=1)
    others[:3] = pixels(3)
    assert np.array_equal(mnn.features(others)[:3], alone)


# Of 300 pixels the smallest maps have fewer tiles than MNN multiplies at a time, of 330 there is no room for whole batches.
SLOW_PLACES = [
    pytest.param(size, count, marks=pytest.mark.slow)
    for size, count in [(224, 2), (224, 25), *((size, count) for size in (300, 330) for count in (1, 7, 25))]
]


@pytest.mark.parametrize(("size", "count"), [(32, 1), (32, 7), (32, 24), (32, 25), (64, 23), *SLOW_PLACES])
def test_with_mnn_a_feature_does_not_depend_on_its_place_in_a_batch(mnns, size, count):
    picture = pixels(1, size)
    expected = mnns(size).features(picture)[0]
    assert (mnns(size).features(np.repeat(picture, count, axis=0)) == expected).all()


def test_with_mnn_the_same_batch_gives_the_same_bits_again_and_in_another_engine(mnn, spec, tensors):
    found = mnn.features(pixels(5))
    assert np.array_equal(mnn.features(pixels(5)), found)
    assert np.array_equal(measured(spec, tensors).features(pixels(5)), found)


def test_with_mnn_more_images_than_a_batch_has_room_for_are_taken_in_turn(mnn):
    many = np.concatenate([pixels(mnn.batch_size, seed=1), pixels(3)])
    assert np.array_equal(mnn.features(many)[-3:], mnn.features(pixels(3)))


def test_the_network_of_mnn_is_converted_once_and_gives_the_same_bits_from_the_cache(
    tmp_path, monkeypatch, spec, tensors
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    converted, convert = [], mnn_engine._converted
    monkeypatch.setattr(mnn_engine, "_converted", lambda *given: (converted.append(1), convert(*given))[1])
    found = [MnnEngine(spec, tensors, threads=1).features(pixels(2)) for _ in range(2)]
    assert np.array_equal(*found)
    assert len(converted) == 1
    (kept,) = (cache_folder() / "graphs").iterdir()
    data = kept.read_bytes()
    kept.write_bytes(data[:-1] + b"x")
    assert np.array_equal(MnnEngine(spec, tensors, threads=1).features(pixels(2)), found[0])
    assert (kept.read_bytes(), len(converted)) == (data, 2), "a damaged network is converted again"


def test_other_weights_of_the_same_name_have_a_network_of_their_own(spec, tensors):
    other = {name: tuple(-array for array in arrays) for name, arrays in tensors.items()}
    found = [MnnEngine(spec, each, threads=1).features(pixels(2)) for each in (tensors, other)]
    assert not np.array_equal(*found)
