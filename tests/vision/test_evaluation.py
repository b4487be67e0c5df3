"""Which class was taken for which, and what follows from it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import precision_recall_fscore_support

from vision.evaluation import precision_and_recall


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
