"""A head in numpy says what it says in Keras."""

from pathlib import Path

import numpy as np
import pytest

from vision.errors import HeadError
from vision.prediction.dense_head import DenseHead, NotDense, read_dense_head
from vision.prediction.head import KerasHead, load_predicting_head
from vision.training.evaluation import class_scores
from vision.training.head import HeadSpec
from vision.training.head_model import build_head
from vision.training.statistics import Statistics

# Keras 3.15 hands variables to numpy 2 without the keyword `copy`.
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")

SHAPE = (2, 2, 8)
CLASSES = {2: ("cats", "dogs"), 3: ("cats", "dogs", "birds")}


def statistics() -> Statistics:
    draw = np.random.default_rng(1)
    variance = draw.uniform(0.5, 30, SHAPE[-1])
    variance[0] = 1e-20  # a dead channel
    return Statistics(draw.normal(10, 5, SHAPE[-1]), variance)


def pooled_statistics(pooling: str) -> Statistics:
    one = statistics()
    parts = len(pooling.split("+"))
    return Statistics(np.tile(one.mean, parts), np.tile(one.variance, parts))


def features(count: int = 50) -> np.ndarray:
    return np.random.default_rng(2).gamma(0.5, 20, (count, *SHAPE)).astype(np.float16)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", ["mlp", "linear"])
@pytest.mark.parametrize("standardized", [True, False])
def test_numpy_gives_the_probabilities_of_keras(tmp_path: Path, kind, classes, standardized):
    spec = HeadSpec(CLASSES[classes], kind=kind)
    model = build_head(spec, SHAPE, statistics() if standardized else None, seed=3)
    model.save(tmp_path / "head.keras")
    head = load_predicting_head(tmp_path / "head.keras")
    assert isinstance(head, DenseHead)
    found = head.probabilities(features())
    expected = class_scores(np.asarray(model(features().astype(np.float32), training=False)))
    assert found.shape == (50, classes)
    assert np.abs(found - expected).max() < 1e-6
    assert len(set(found.argmax(axis=1).tolist())) > 1, "every sample has the same class: the comparison says little"


@pytest.mark.parametrize("pooling", ["avg+max", "avg", "max"])
@pytest.mark.parametrize("classes", CLASSES)
def test_a_head_that_pools_gives_the_probabilities_of_keras(tmp_path: Path, pooling, classes):
    spec = HeadSpec(CLASSES[classes], kind="pooled", head_pooling=pooling)
    model = build_head(spec, SHAPE, pooled_statistics(pooling), seed=3)
    model.save(tmp_path / "head.keras")
    head = load_predicting_head(tmp_path / "head.keras")
    assert isinstance(head, DenseHead)
    expected = class_scores(np.asarray(model(features().astype(np.float32), training=False)))
    assert np.abs(head.probabilities(features()) - expected).max() < 1e-6


def test_extreme_values_give_certain_classes_and_no_warning(tmp_path: Path):
    model = build_head(HeadSpec(CLASSES[2], kind="linear"), (4,), None, seed=0)
    model.save(tmp_path / "head.keras")
    found = read_dense_head(tmp_path / "head.keras").probabilities(np.array([[6e4] * 4, [-6e4] * 4], np.float32))
    assert np.isfinite(found).all()
    assert np.allclose(found.sum(axis=1), 1)


def other_models():
    import keras
    from keras import layers

    convolution = keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(1)])
    one = keras.Input((4,))
    branches = keras.Model(one, layers.Add()([layers.Dense(2)(one), layers.Dense(2)(one)]))
    chain = keras.Input((4,))
    elu = keras.Model(chain, layers.Dense(2, activation="elu")(chain))
    return {"sequential": convolution, "branches": branches, "activation": elu}


@pytest.mark.parametrize("name", ["sequential", "branches", "activation"])
def test_other_heads_are_left_to_keras(tmp_path: Path, name):
    model = other_models()[name]
    model.save(tmp_path / "head.keras")
    with pytest.raises(NotDense):
        read_dense_head(tmp_path / "head.keras")
    head = load_predicting_head(tmp_path / "head.keras")
    assert isinstance(head, KerasHead)
    values = np.random.default_rng(0).normal(size=(3, *model.input_shape[1:])).astype(np.float32)
    assert np.allclose(head.probabilities(values), class_scores(np.asarray(model(values))), atol=1e-6)


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_head_is_refused_in_one_line(tmp_path: Path, data):
    (tmp_path / "head.keras").write_bytes(data)
    with pytest.raises(HeadError, match="cannot be loaded") as error:
        load_predicting_head(tmp_path / "head.keras")
    assert "\n" not in str(error.value)
