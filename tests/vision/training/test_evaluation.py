"""Which class was taken for which, and what follows from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from tests.vision.training.points import SHAPE, Points, trained
from vision.training.evaluation import (
    MISTAKES_KEPT,
    Mistake,
    class_scores,
    evaluate,
    precision_and_recall,
    wilson_interval,
)

pytestmark = [
    # Keras 3.15 on NumPy 2, wherever it saves: keras/src/backend/tensorflow/core.py, convert_to_numpy.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]


@given(st.integers(2, 6).flatmap(lambda n: arrays(np.int64, (n, n), elements=st.integers(0, 9))))
def test_precision_and_recall_are_those_of_scikit_learn(confusion):
    true, predicted = np.indices(confusion.shape).reshape(2, -1)
    pairs = np.repeat(np.stack([true, predicted]), confusion.reshape(-1), axis=1)
    expected = (
        precision_recall_fscore_support(*pairs, labels=range(len(confusion)), average=None, zero_division=np.nan)
        if pairs.size
        else [[np.nan] * len(confusion)] * 2
    )
    found = np.array(precision_and_recall(confusion), float)  # None becomes nan
    np.testing.assert_allclose(found[:, 0], expected[0])
    np.testing.assert_allclose(found[:, 1], expected[1])


def test_a_class_that_was_never_taken_has_no_precision_and_one_without_samples_no_recall():
    assert precision_and_recall(np.array([[3, 0, 1], [2, 0, 0], [0, 0, 0]])) == [
        (pytest.approx(3 / 5), pytest.approx(3 / 4)),
        (None, 0),
        (0, None),
    ]


@pytest.fixture(scope="module")
def head(engine):
    """A head that was trained for an epoch, by its number of classes."""
    return lru_cache(lambda classes: trained(classes, epochs=1).model)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("apart", [0.2, 3.0], ids=["many mistakes", "few mistakes"])
def test_the_mistakes_kept_are_the_worst_of_all(head, classes, apart):
    """Held against all scores at once, sorted. Every point is there three times, so that scores are equal."""
    model = head(classes)
    points = Points(80, classes, draw=1, apart=apart, batch_size=7)
    points.features, points.labels, points.count = (
        np.tile(points.features, (3, 1, 1, 1)),
        np.tile(points.labels, 3),
        240,
    )
    found = evaluate(model, points, SHAPE, "float16", classes)
    scores = np.concatenate([class_scores(model.predict_on_batch(features)) for features, _ in points.batches()])
    predicted = scores.argmax(axis=1)
    everything = [
        Mistake(sample, int(own), int(other), float(scores[sample, other]), float(scores[sample, own]))
        for sample, (own, other) in enumerate(zip(points.labels, predicted, strict=True))
        if own != other
    ]
    worst = sorted(everything, key=lambda mistake: (-mistake.score, mistake.sample))
    assert len(everything) == found.confusion.sum() - np.trace(found.confusion)
    assert (len(everything) > MISTAKES_KEPT) == (apart < 1)
    assert found.mistakes == tuple(worst[:MISTAKES_KEPT])


@dataclass
class Thinned(Points):
    """Points of which some cannot be read: by their places."""

    gone: tuple[int, ...] = ()

    def numbered(self) -> Iterator[tuple[np.ndarray, ...]]:
        for batch in super().numbered():
            is_there = ~np.isin(batch[0], self.gone)
            yield tuple(array[is_there] for array in batch)


@pytest.mark.parametrize("gone", [[0], [79], [3, 4, 5, 9], range(7), range(70, 80), range(6, 30), range(79)], ids=str)
def test_mistakes_are_of_their_own_samples_whatever_cannot_be_read(head, gone):
    """Also where nothing is left of the first batch, the last one or several in succession."""
    model = head(2)
    points = Thinned(80, 2, draw=1, apart=0.2, batch_size=7, gone=tuple(gone))
    left = np.delete(np.arange(80), gone)
    rest = Points(len(left), 2, batch_size=7)
    rest.features, rest.labels = points.features[left], points.labels[left]
    found, expected = (evaluate(model, each, SHAPE, "float16", 2) for each in (points, rest))
    assert [mistake.sample for mistake in found.mistakes] == [left[mistake.sample] for mistake in expected.mistakes]
    assert all(points.labels[mistake.sample] == mistake.label for mistake in found.mistakes)
    assert found.confusion.tolist() == expected.confusion.tolist()
    assert (found.loss, found.accuracy) == (pytest.approx(expected.loss), pytest.approx(expected.accuracy))


@given(st.floats(0, 1, width=32))
def test_of_two_classes_the_second_is_taken_from_above_one_half(score):
    scores = class_scores(np.array([[score]], np.float32))
    assert scores.shape == (1, 2)
    assert scores.argmax() == (score > 0.5)


@given(st.integers(1, 10_000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_the_interval_is_that_of_scipy(case):
    hits, count = case
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson_interval(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_of_no_image_any_share_may_be_right():
    assert wilson_interval(0, 0) == (0, 1)
