"""One engine for the room: TensorFlow's threads are set once a process, before anything else runs in it."""

import gc
from collections.abc import Iterator

import pytest

from tests import memo
from vision.backbones.weights import weights_digest
from vision.backbones.weights_file import Tensors
from vision.engines.tensorflow_engine import TensorFlowEngine
from vision.specs import BACKBONES, FeatureSpec


@pytest.fixture(scope="session", autouse=True)
def _shared_weights() -> Iterator[None]:
    with memo.shared_weights():
        yield


@pytest.fixture(scope="session")
def tensors() -> Tensors:
    return memo.random_weights(BACKBONES["vgg16"])


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> FeatureSpec:
    memo = tmp_path_factory.mktemp("memo") / "weights.json"
    return FeatureSpec(weights_digest(BACKBONES["vgg16"], "random", memo), image_size=32)


@pytest.fixture(scope="session")
def engine(spec: FeatureSpec) -> TensorFlowEngine:
    """Random weights, 32 pixels. Whoever uses Keras in this room asks for it, so that it comes first."""
    made = TensorFlowEngine(spec, memo.random_weights(BACKBONES["vgg16"]), threads=1)
    gc.collect()
    gc.freeze()  # TensorFlow stays
    return made
