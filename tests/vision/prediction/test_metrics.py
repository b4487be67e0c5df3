"""The figures of an evaluation say what their definitions say."""

from itertools import product
from math import comb
from pathlib import Path

import numpy as np
import pytest

from vision.prediction.head import KerasHead, load_predicting_head
from vision.prediction.metrics import Compared, compare, mcnemar, measure
from vision.training.head import HeadSpec
from vision.training.head_model import build_head

CLASSES = {2: ("cats", "dogs"), 3: ("cats", "dogs", "birds")}


def answers(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.integers(0, classes, count), draw.dirichlet([0.4] * classes, count).astype(np.float32)


# Keras 3.15 hands variables to numpy 2 without the keyword `copy`.
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("scale", [0.1, 3.0, 20.0])
def test_loss_and_accuracy_are_those_of_keras_also_after_certain_mistakes(tmp_path: Path, classes, scale):
    model = build_head(HeadSpec(CLASSES[classes], kind="linear"), (4,), None, seed=0)
    draw = np.random.default_rng(classes)
    features = draw.normal(size=(100, 4)).astype(np.float32) * np.float32(scale)
    labels = draw.integers(0, classes, 100)
    loss, accuracy = model.evaluate(features, labels, batch_size=32, verbose=0)
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "head.keras")
    for head in (load_predicting_head(tmp_path / "head.keras"), KerasHead(tmp_path / "head.keras")):
        found = measure(labels, head.probabilities(features))
        assert found.impossible == 0
        assert found.accuracy == pytest.approx(accuracy, abs=1e-7)
        assert found.log_loss == pytest.approx(loss, rel=2e-6)


def test_a_probability_of_zero_is_counted_and_the_loss_stays_finite():
    found = measure(np.array([0, 1]), np.array([[0, 1], [0, 1]], np.float32))
    assert (found.impossible, found.correct) == (1, 1)
    assert 43 < found.log_loss < 44


@pytest.mark.parametrize("classes", [2, 5])
def test_counts_agree_with_each_other(classes):
    labels, probabilities = answers(200, classes)
    found = measure(labels, probabilities)
    assert found.confusion.sum() == sum(each.images for each in found.classes) == 200
    assert sum(each.images for each in found.bins) == 200
    assert found.correct == round(found.accuracy * 200) == round(sum(b.accuracy * b.images for b in found.bins))
    low, high = found.interval
    assert 0 <= low <= found.accuracy <= high <= 1
    for scores in found.classes:
        assert scores.f1 is None or min(scores.precision, scores.recall) <= scores.f1 <= max(
            scores.precision, scores.recall
        )


def test_a_class_without_images_has_no_recall_and_one_never_predicted_no_precision():
    found = measure(np.zeros(3, int), np.array([[0.1, 0.9, 0]] * 3, np.float32))
    assert [(each.images, each.precision, each.recall, each.f1) for each in found.classes] == [
        (3, None, 0.0, None),
        (0, 0.0, None, None),
        (0, None, None, None),
    ]


def test_calibration_error_is_the_weighted_gap_of_the_bins():
    certain = np.array([[0.95, 0.05]] * 10 + [[0.65, 0.35]] * 30, np.float32)
    labels = np.array([0] * 8 + [1] * 2 + [0] * 15 + [1] * 15)
    found = measure(labels, certain)
    assert [(each.low, each.images, each.accuracy) for each in found.bins] == [(0.6, 30, 0.5), (0.9, 10, 0.8)]
    assert found.calibration_error == pytest.approx((30 * 0.15 + 10 * 0.15) / 40, abs=1e-6)


def test_a_perfectly_certain_and_correct_head_has_no_calibration_error():
    found = measure(np.array([0, 1]), np.eye(2, dtype=np.float32))
    assert (found.calibration_error, found.log_loss, found.accuracy) == (0, 0, 1)
    assert found.bins[-1].high == 1


@pytest.mark.parametrize(("ours", "theirs"), list(product([0, 1, 5, 9, 14, 30], repeat=2)))
def test_mcnemars_p_value_is_that_of_a_fair_coin(ours, theirs):
    count, least = ours + theirs, min(ours, theirs)
    tail = sum(comb(count, k) for k in range(least + 1)) / 2**count
    assert mcnemar(ours, theirs) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(ours, theirs) == mcnemar(theirs, ours)


def test_two_heads_are_compared_on_the_images_that_only_one_predicts_correctly():
    labels = np.zeros(23 + 7, int)
    right, wrong = [0.9, 0.1], [0.2, 0.8]
    first = np.array([right] * 14 + [wrong] * 9 + [right] * 4 + [wrong] * 3, np.float32)
    second = np.array([wrong] * 14 + [right] * 9 + [right] * 4 + [wrong] * 3, np.float32)
    found = compare(labels, first, second)
    assert (found.images, found.only_first, found.only_second) == (30, 14, 9)
    assert found.verdict("A", "B") == (
        "head A is right on 14 that B misses, B on 9 that A misses: p = 0.40, no evidence of a difference on 30 images"
    )


@pytest.mark.parametrize(
    ("compared", "meaning"),
    [
        (Compared(400, 0, 0, 1.0), "no difference"),
        (Compared(400, 30, 5, mcnemar(30, 5)), "evidence that head A is better on 400 images"),
        (Compared(400, 5, 30, mcnemar(5, 30)), "evidence that head B is better on 400 images"),
        (Compared(4, 4, 0, mcnemar(4, 0)), "no evidence of a difference on 4 images"),
        (Compared(1, 0, 0, 1.0), "on 1 image alike"),
    ],
)
def test_the_verdict_says_whether_the_difference_means_anything(compared, meaning):
    assert meaning in compared.verdict("A", "B")
