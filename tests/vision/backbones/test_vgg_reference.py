import dataclasses

import pytest

from tests.memo import random_weights
from tests.vision.engines.test_tensorflow_engine import pixels, relative_error
from vision.backbones import vgg_reference as vgg
from vision.engines.mnn_engine import MnnEngine
from vision.engines.tensorflow_engine import TensorFlowEngine
from vision.specs import BACKBONES, FeatureSpec


# Up to 63 pixels the last map is one cell, of which each pooling is the same.
@pytest.mark.parametrize(("pooling", "size"), [("none", 50), ("avg", 64), ("max", 64)])
def test_the_reference_gives_the_features_of_keras(engine, spec, tensors, pooling, size):
    own = dataclasses.replace(spec, pooling=pooling, image_size=size)
    expected = TensorFlowEngine(own, tensors, threads=1).features(pixels(2, size))
    found = vgg.features(own, tensors, pixels(2, size))
    assert found.shape == (2, *own.shape)
    assert relative_error(found, expected) < 1e-5


def test_the_reference_knows_each_network_of_the_family(engine):
    tensors = random_weights(BACKBONES["vgg19"])
    spec = FeatureSpec("", "vgg19", image_size=32)
    expected = TensorFlowEngine(spec, tensors, threads=1).features(pixels(2))
    assert relative_error(vgg.features(spec, tensors, pixels(2)), expected) < 1e-5


@pytest.mark.parametrize("engine_of", [MnnEngine, TensorFlowEngine])
def test_rescaled_features_are_those_of_the_reference_in_each_engine(engine, spec, tensors, engine_of):
    shifted = {
        name: (kernel, bias + 0.1) for name, (kernel, bias) in tensors.items()
    }  # else features rescale as pixels do
    own = dataclasses.replace(spec, rescale=1 / 255, dtype="float32")
    expected = vgg.features(own, shifted, pixels(2))
    assert relative_error(engine_of(own, shifted, threads=1).features(pixels(2)), expected) < 1e-5
    assert relative_error(vgg.features(spec, shifted, pixels(2)) / 255, expected) > 0.1
