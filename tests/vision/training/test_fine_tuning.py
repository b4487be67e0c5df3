"""The last block and the head as one network: what it begins with, what of it changes, and what is saved of it."""

import csv
import dataclasses
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.vision.backbones.test_weights import VGG16
from tests.vision.engines.test_tensorflow_engine import pixels, relative_error
from vision.backbones.weights import weights_digest
from vision.backbones.weights_file import read_weights
from vision.batches import Held
from vision.engines.mnn_engine import MnnEngine
from vision.engines.parity import LARGEST_ERROR
from vision.engines.tensorflow_engine import TensorFlowEngine
from vision.errors import HeadError, SpecError
from vision.specs import FeatureSpec
from vision.training.checkpoint import Checkpoint
from vision.training.evaluation import evaluate
from vision.training.feeds import TrainingData
from vision.training.fine_tuning import build_tunable, build_whole
from vision.training.head import HeadSpec
from vision.training.head_model import build_head, load_head
from vision.training.keeper import Keeping
from vision.training.loop import Trained, train
from vision.training.pooling import pool
from vision.training.statistics import Statistics

pytestmark = [
    # Keras 3.15 on NumPy 2, wherever it saves: keras/src/backend/tensorflow/core.py, convert_to_numpy.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

RATE = 1e-5
PLACES = np.arange(8)
LABELS = (PLACES % 2).astype(np.uint16)


def head_for(features: np.ndarray, classes: int = 2, kind: str = "mlp", seed: int = 0):
    """A head that standardises as these features want it, with other weights than its layers begin with."""
    spec = HeadSpec(("cat", "dog", "fox")[:classes], kind=kind)
    taken = pool(features, spec.head_pooling) if spec.pools else features
    rows = taken.reshape(-1, taken.shape[-1]).astype(np.float64)
    statistics = Statistics(rows.mean(axis=0), rows.var(axis=0) + 1.0)
    head = build_head(spec, features.shape[1:], statistics, seed)
    head.set_weights([1.2 * array for array in head.get_weights()])
    return head


@dataclasses.dataclass(frozen=True)
class Photos:
    """Eight pictures, and what the backbone makes of them: as far as block5, and to the end."""

    pixels: np.ndarray
    maps: np.ndarray
    features: np.ndarray


@pytest.fixture(scope="module")
def photos(engine, spec, tensors) -> Photos:
    batch = pixels(8)
    return Photos(batch, MnnEngine(spec, tensors, 1, "block5").features(batch), engine.features(batch))


def data_of(photos: Photos, validation: np.ndarray = LABELS) -> TrainingData:
    halves = tuple((PLACES[at : at + 4], photos.maps[at : at + 4], LABELS[at : at + 4]) for at in (0, 4))
    held_out = Held(((PLACES, photos.maps, validation),))
    return TrainingData(
        photos.maps.shape[1:], "float32", Held(halves), Held(halves), held_out, held_out, np.bincount(LABELS)
    )


def trained(model, photos: Photos, validation: np.ndarray = LABELS, logs: Path | None = None, **options) -> Trained:
    """Two epochs of two steps."""
    with tempfile.TemporaryDirectory() as folder:
        spec = HeadSpec(("cat", "dog"), epochs=2)
        return train(spec, data_of(photos, validation), 0, logs or Path(folder), model=model, **options)


def weights_of(model) -> dict[str, list[np.ndarray]]:
    return {layer.name: layer.get_weights() for layer in model.layers if layer.get_weights()}


def is_same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("before", "size", "options", "kind"),
    [
        ("block5", 32, {}, "mlp"),
        ("block3", 50, {"pooling": "avg"}, "mlp"),
        ("block5", 64, {}, "logistic"),
        pytest.param("block5", 64, {"pooling": "max"}, "mlp", marks=pytest.mark.slow),
    ],
)
def test_a_cut_engine_and_the_model_behind_it_give_what_the_head_gives_on_features(
    engine, spec, tensors, before, size, options, kind
):
    own = dataclasses.replace(spec, image_size=size, dtype="float32", **options)
    features = TensorFlowEngine(own, tensors, 1).features(pixels(4, size))
    head = head_for(features, classes=3, kind=kind)
    tunable = build_tunable(own, tensors, head, before, "sgd", RATE, seed=0)
    expected = np.asarray(head(features))
    for engine_of in (MnnEngine, TensorFlowEngine):
        found = np.asarray(tunable(engine_of(own, tensors, 1, before).features(pixels(4, size))))
        assert found.shape == (4, 3)
        assert relative_error(found, expected) < 10 * LARGEST_ERROR["float32"]


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A head, what a training of block5 and of it began with, and what came of that."""

    head: object
    head_weights: list[np.ndarray]
    before: dict[str, list[np.ndarray]]
    means: list[np.ndarray]
    found: Trained


@pytest.fixture(scope="module")
def tuned(spec, tensors, photos) -> Tuned:
    head = head_for(photos.features)
    weights = head.get_weights()
    model = build_tunable(spec, tensors, head, "block5", "rmsprop", RATE, seed=0)
    return Tuned(head, weights, weights_of(model), means_of(model), trained(model, photos))


def means_of(model) -> list[np.ndarray]:
    return [np.array(layer.mean) for layer in model.layers if hasattr(layer, "mean")]


def test_before_the_first_step_the_figures_are_those_of_the_head(spec, tuned, photos):
    expected = evaluate(tuned.head, Held(((PLACES, photos.features, LABELS),)), spec.shape, "float32", 2)
    assert tuned.found.start == {
        "val_loss": pytest.approx(expected.loss, rel=LARGEST_ERROR["float16"]),
        "val_accuracy": expected.accuracy,
    }


def test_the_block_and_the_head_are_trained_and_nothing_below_nor_the_standardisation(spec, tensors, tuned):
    before, found = tuned.before, tuned.found.model
    names = [*(name for name in tensors if name.startswith("block5")), "dense", "dense_1"]
    assert [name.rstrip("_0123456789") for name in before] == [name.rstrip("_0123456789") for name in names]
    assert all(is_same(before[name], list(tensors[name])) for name in names if name in tensors)
    assert not any(is_same(layer, before[name]) for name, layer in weights_of(found).items())
    assert len(tuned.means) == 1
    assert is_same(means_of(found), tuned.means)
    whole = weights_of(build_whole(spec, tensors, found))
    for name, arrays in tensors.items():
        assert is_same(whole[name], list(arrays)) != name.startswith("block5")


def test_the_head_that_it_is_built_from_is_left_alone(tuned):
    assert is_same(tuned.head.get_weights(), tuned.head_weights)


def test_a_step_of_plain_descent_is_as_long_as_the_learning_rate_says(spec, tensors, photos):
    moved = {}
    for rate in (1e-6, 2e-6):
        # The linear head has no dropout: both steps have the same gradient.
        model = build_tunable(spec, tensors, head_for(photos.features, kind="linear"), "block5", "sgd", rate, seed=0)
        before = model.get_layer("block5_conv3").get_weights()[0]
        model.train_on_batch(photos.maps, LABELS)
        moved[rate] = np.linalg.norm(model.get_layer("block5_conv3").get_weights()[0] - before)
    assert moved[1e-6] > 0
    assert moved[2e-6] / moved[1e-6] == pytest.approx(2, rel=0.05)  # float32 weights are coarse beside such steps


def test_the_dropout_goes_on_and_its_seed_decides_it(spec, tensors, photos):
    def outcome(seed: int) -> np.ndarray:
        model = build_tunable(spec, tensors, head_for(photos.features), "block5", "sgd", RATE, seed)
        return np.asarray(model(photos.maps, training=True))

    assert np.array_equal(outcome(0), outcome(0))
    assert not np.array_equal(outcome(0), outcome(1))


def test_what_only_gets_worse_keeps_the_weights_it_came_with(spec, tensors, photos):
    """The labels held out are the opposite of those it learns, of the very same pictures."""
    model = build_tunable(spec, tensors, head_for(photos.features), "block5", "sgd", 1e-3, seed=0)
    before = model.get_weights()
    found = trained(model, photos, 1 - LABELS)
    losses = [logs["val_loss"] for logs in found.history]
    assert min(losses) > found.start["val_loss"]
    assert is_same(found.model.get_weights(), before)
    assert found.validation.loss == pytest.approx(found.start["val_loss"], rel=1e-6)


@pytest.mark.slow
def test_a_fine_tuning_goes_on_as_if_it_had_never_been_stopped(spec, tensors, photos, tmp_path):
    def build():
        return build_tunable(spec, tensors, head_for(photos.features), "block5", "rmsprop", RATE, seed=0)

    def keep(epoch, step, arrays, record):
        copies = {name: np.array(array) for name, array in arrays}
        kept.append(Checkpoint(epoch, step, copies, json.loads(json.dumps(record))))

    kept: list[Checkpoint] = []
    whole = trained(build(), photos, logs=tmp_path / "whole", keeping=Keeping(keep, 0.0))
    assert [(c.epoch, c.step) for c in kept] == [(0, 1), (1, 0), (1, 1), (2, 0)]
    for number, checkpoint in enumerate(kept[:3]):
        logs = tmp_path / str(number)
        again = trained(build(), photos, logs=logs, checkpoint=checkpoint)
        assert (again.history, again.start, again.samples) == (whole.history, whole.start, whole.samples)
        assert is_same(again.model.get_weights(), whole.model.get_weights())
        steps = rows_of(tmp_path / "whole" / "steps.csv")
        assert rows_of(logs / "steps.csv")[1:] == steps[1 + 2 * checkpoint.epoch + checkpoint.step :]


def rows_of(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def exact_maps(spec, tensors) -> np.ndarray:
    """The maps in front of block5, as exact as for features in float32."""
    return MnnEngine(dataclasses.replace(spec, dtype="float32"), tensors, 1, "block5").features(pixels(8))


@pytest.mark.parametrize("pooling", ["avg", pytest.param("none", marks=pytest.mark.slow)])
def test_a_whole_model_that_was_saved_predicts_from_pixels_what_was_trained(
    engine, spec, tensors, exact_maps, pooling, tmp_path
):
    """And needs no code of ours."""
    own = dataclasses.replace(spec, pooling=pooling)
    batch, maps = pixels(8), exact_maps
    head = head_for(TensorFlowEngine(own, tensors, 1).features(batch))
    tunable = build_tunable(own, tensors, head, "block5", "rmsprop", RATE, seed=0)
    tunable.fit(maps, LABELS, epochs=2, verbose=0)
    expected = tunable.predict_on_batch(maps)
    build_whole(own, tensors, tunable).save(tmp_path / "whole.keras")
    loaded = load_head(str(tmp_path / "whole.keras"))
    assert loaded.inputs[0].dtype == "uint8"
    assert {layer.__class__.__module__.partition(".")[0] for layer in loaded.layers} == {"keras"}
    assert np.abs(loaded.predict_on_batch(batch) - expected).max() < 1e-5
    assert loaded.evaluate(batch, LABELS, verbose=0)[1] == ((expected[:, 0] > 0.5) == LABELS).mean()


def test_a_head_of_other_features_is_refused(spec, tensors, photos):
    with pytest.raises(HeadError, match=r"takes features of shape \(1, 1, 512\), this backbone gives \(2, 2, 512\)"):
        build_tunable(
            dataclasses.replace(spec, image_size=64), tensors, head_for(photos.features), "block5", "sgd", RATE, 0
        )
    with pytest.raises(SpecError, match="cannot start at block 'block6'"):
        build_tunable(spec, tensors, head_for(photos.features), "block6", "sgd", RATE, 0)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.skipif("VGG16_WEIGHTS" not in os.environ, reason="VGG16_WEIGHTS names no file of VGG16 notop weights")
def test_with_the_real_weights_the_whole_model_predicts_what_the_cut_engine_and_the_tuned_part_do(engine, tmp_path):
    path = os.environ["VGG16_WEIGHTS"]
    spec = FeatureSpec(weights_digest(VGG16, path, tmp_path / "memo.json"), dtype="float32")
    tensors = read_weights(VGG16, Path(path))
    batch = pixels(2, 224)
    maps = MnnEngine(spec, tensors, 1, "block5").features(batch)
    assert maps.shape == (2, 14, 14, 512)
    head = head_for(MnnEngine(spec, tensors, 1).features(batch), classes=3)
    tunable = build_tunable(spec, tensors, head, "block5", "rmsprop", 1e-5, seed=0)
    tunable.train_on_batch(maps, np.array([0, 2]))
    build_whole(spec, tensors, tunable).save(tmp_path / "whole.keras")
    found = load_head(str(tmp_path / "whole.keras")).predict_on_batch(batch)
    assert np.abs(found - tunable.predict_on_batch(maps)).max() < 1e-4
