"""The logistic head: where its weights come from, and that the saved model says the same."""

import os

import numpy as np
import pytest

from vision.batches import Held
from vision.prediction.dense_head import DenseHead
from vision.prediction.head import load_predicting_head
from vision.training.convex import SolverData, train_logistic
from vision.training.evaluation import evaluate
from vision.training.folds import FOLDS, stratified_folds
from vision.training.head import HeadSpec
from vision.training.logistic import fit
from vision.training.statistics import balanced_weights

# Keras 3.15 hands variables to numpy 2 without the keyword `copy`.
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")

SHAPE, NAMES = (3, 3, 8), ("cats", "dogs", "birds")


def images(count: int, classes: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maps whose channels depend on the class."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, count)
    centres = np.random.default_rng(9).gamma(2, 2, (classes, SHAPE[-1]))
    maps = centres[labels][:, None, None] * draw.gamma(2, 0.5, (count, *SHAPE)) + draw.gamma(1, noise, (count, *SHAPE))
    return maps.astype(np.float16), labels.astype(np.uint16)


def held(features: np.ndarray, labels: np.ndarray, size: int = 16) -> Held:
    cuts = [slice(at, at + size) for at in range(0, len(labels), size)]
    return Held(tuple((np.arange(len(labels))[cut], features[cut], labels[cut]) for cut in cuts))


def data(classes: int = 3, noise: float = 4.0, count: int = 120, shape=SHAPE) -> SolverData:
    training, validation = images(count, classes, noise), images(60, classes, noise, seed=1)
    (features, labels), (others, own) = ((x.reshape(len(x), *shape), y) for x, y in (training, validation))
    numbers = np.random.default_rng(2).permutation(count).astype(np.uint64)
    counts = np.bincount(labels, minlength=classes)
    return SolverData(shape, held(features, labels), numbers, held(others, own), counts)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "own", [{}, {"standardize": False}, {"head_pooling": "max"}, {"class_weight": "balanced"}], ids=str
)
def test_the_saved_model_says_what_the_solver_found(tmp_path, classes, own):
    spec, given = HeadSpec(NAMES[:classes], kind="logistic", **own), data(classes)
    trained = train_logistic(spec, given, seed=0)
    in_keras = evaluate(trained.model, given.validation, SHAPE, "float16", classes)
    assert trained.validation.loss == pytest.approx(in_keras.loss, rel=1e-5)
    assert trained.validation.accuracy == pytest.approx(in_keras.accuracy, abs=1e-6)
    assert np.array_equal(trained.validation.confusion, in_keras.confusion)
    assert [each.sample for each in trained.validation.mistakes] == [each.sample for each in in_keras.mistakes]
    trained.model.save(tmp_path / "head.keras")
    head = load_predicting_head(tmp_path / "head.keras")
    assert isinstance(head, DenseHead), "it needs Keras to predict"
    features, labels = (np.concatenate(each) for each in zip(*given.validation.batches(), strict=True))
    assert (head.probabilities(features).argmax(axis=1) == labels).mean() == pytest.approx(trained.validation.accuracy)
    assert trained.validation.accuracy > 1.5 / classes


def test_equal_data_give_equal_weights_whatever_the_seed():
    given = data()
    one, other = (train_logistic(HeadSpec(NAMES, kind="logistic"), given, seed) for seed in (0, 7))
    assert all(np.array_equal(a, b) for a, b in zip(one.model.get_weights(), other.model.get_weights(), strict=True))
    assert one.regularization == other.regularization


def test_the_strength_is_the_one_with_the_lowest_loss_on_the_folds():
    noisy = train_logistic(HeadSpec(NAMES, kind="logistic"), data(noise=40.0, count=60), seed=0).regularization
    clear = train_logistic(HeadSpec(NAMES, kind="logistic"), data(noise=0.5), seed=0).regularization
    for found in (noisy, clear):
        assert found["l2"] == min(found["tried"], key=lambda each: each["loss"])["l2"]
        tried = [each["l2"] for each in found["tried"]]
        assert tried == sorted(tried, reverse=True)
        assert {round(np.log10(tried[at - 1] / tried[at]), 6) for at in range(1, len(tried))} <= {0.5, 1.0}
    assert noisy["l2"] > clear["l2"]
    given = train_logistic(HeadSpec(NAMES, kind="logistic", l2=0.25), data(), seed=0).regularization
    assert (given["l2"], given["tried"]) == (0.25, [])


def test_features_that_are_pooled_already_are_taken_as_they_are():
    given = data(shape=(72,))
    trained = train_logistic(HeadSpec(NAMES, kind="logistic"), given, seed=0)
    assert [type(layer).__name__ for layer in trained.model.layers] == ["InputLayer", "Normalization", "Dense"]
    assert trained.model.layers[-1].get_weights()[0].shape == (72, 3)


@pytest.mark.parametrize("labels", [[0] * 6, [1] * 6, [0] * 5 + [1], [0, 0, 1, 1, 0, 1], [0] * 3 + [2] * 3], ids=str)
@pytest.mark.filterwarnings("error")
def test_few_images_and_missing_classes_are_no_error(labels):
    own, numbers = np.array(labels), np.arange(len(labels), dtype=np.uint64)
    features = np.random.default_rng(0).normal(size=(len(own), 4)).astype(np.float32) + 5 * own[:, None]
    found = fit(features, own, np.ones(len(own)), stratified_folds(own, numbers), 3)
    logits = features @ found.kernel + found.bias
    assert np.isfinite(logits).all()
    assert set(logits.argmax(axis=1)) <= set(labels), "a class without images is predicted"
    assert (logits.argmax(axis=1) == own).all()


def test_balanced_classes_count_the_same():
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1], [95, 5])
    features = (draw.normal(size=(100, 3)) + 1.0 * labels[:, None]).astype(np.float32)
    folds = stratified_folds(labels, np.arange(100, dtype=np.uint64))
    weights = balanced_weights(np.bincount(labels))[labels]
    plain, balanced = (fit(features, labels, each, folds, 2, l2=0.1) for each in (np.ones(100), weights))
    taken = [((features @ found.kernel + found.bias).argmax(axis=1) == 1).sum() for found in (plain, balanced)]
    assert taken[0] < taken[1]


def test_folds_have_every_class_and_keep_images_together():
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 2**63, 200).astype(np.uint64), np.repeat([0, 1, 2], [120, 60, 20])
    twins = np.concatenate([images, images[:7]]), np.concatenate([labels, labels[:7]])
    folds = stratified_folds(twins[1], twins[0])
    assert np.array_equal(folds[200:], folds[:7])
    for label in range(3):
        sizes = np.bincount(folds[:200][labels == label], minlength=FOLDS)
        assert sizes.max() - sizes.min() <= 1
    order = draw.permutation(207)
    assert np.array_equal(stratified_folds(twins[1][order], twins[0][order]), folds[order])


def test_the_file_of_a_head_for_five_classes_is_small(tmp_path):
    draw = np.random.default_rng(0)
    labels = np.arange(50).astype(np.uint16) % 5
    maps = (draw.gamma(1, 1, (50, 2, 2, 512)) + labels[:, None, None, None]).astype(np.float16)
    given = SolverData(
        (2, 2, 512), held(maps, labels), np.arange(50, dtype=np.uint64), held(maps, labels), np.full(5, 10)
    )
    train_logistic(HeadSpec(tuple("abcde"), kind="logistic"), given, seed=0).model.save(tmp_path / "head.keras")
    assert os.path.getsize(tmp_path / "head.keras") < 100_000
