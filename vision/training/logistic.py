"""Multinomial logistic regression on pooled features: a head of one layer whose weights are the optimum of a convex loss.

The loss is the mean cross-entropy plus half of `l2` times the squares of the weights, without the biases. scikit-learn's L-BFGS
finds the optimum in less than a second for a few thousand images, so there are no epochs to resume.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vision.training.evaluation import cross_entropy
from vision.training.folds import FOLDS

# Strong regularisation first, in steps of half a power of ten. The search ends after PATIENCE values without a lower loss.
STRENGTHS = tuple(10 ** (power / 2) for power in range(2, -13, -1))
PATIENCE = 2
USUAL = 0.1  # without enough images to validate on
MOST_ITERATIONS = 1000


@dataclass(frozen=True)
class Tried:
    """A strength of regularisation, with the loss (nats) and accuracy on the folds that the fits did not see."""

    l2: float
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Regression:
    """The fitted layer. kernel: (columns, classes) float64. bias: (classes,). l2: of the fit. tried: by cross-validation."""

    kernel: np.ndarray
    bias: np.ndarray
    l2: float
    tried: tuple[Tried, ...]

    def record(self, images: int) -> dict:
        """How `l2` was chosen, for head.json. images: the number of samples of the fit."""
        return {"l2": self.l2, "folds": FOLDS, "images": images, "tried": [vars(each) for each in self.tried]}


class Fit:
    """Fits of one set of samples, each from where the last one ended. A sample of weight 0 is left out."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, weights: np.ndarray, num_classes: int):
        from sklearn.linear_model import LogisticRegression

        self._data, self._num_classes = (features, labels, weights), num_classes
        self._solver = LogisticRegression(max_iter=MOST_ITERATIONS, warm_start=True)

    def at(self, l2: float) -> tuple[np.ndarray, np.ndarray]:
        """Kernel (columns, classes) and bias (classes,) of the optimum.

        A class without samples gets a bias that makes it improbable. Of two classes only the second has weights, the log-odds.
        """
        from threadpoolctl import threadpool_limits

        features, labels, weights = self._data
        present = np.unique(labels)
        kernel, bias = np.zeros((features.shape[1], self._num_classes)), np.full(self._num_classes, -math.log(1e7))
        if len(present) == 1:
            bias[present] = 0
            return kernel, bias
        self._solver.set_params(C=1 / (l2 * weights.sum()))
        # One thread: threads of a busy machine wait for each other, and would add in another order.
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the search needs no last digit
            self._solver.fit(features, labels, weights)
        if len(present) == 2:
            bias[present[0]] = 0
            present = present[1:]
        kernel[:, present], bias[present] = self._solver.coef_.T, self._solver.intercept_
        return kernel, bias


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    folds: np.ndarray,
    num_classes: int,
    l2: float | None = None,
    report: Callable[[], None] = lambda: None,
) -> Regression:
    """Fit (n, columns) float32 standardised features.

    labels, weights, folds: (n,), from 0 on; a fold is validated on while the others are fitted. l2: None chooses the strength with
    the lowest weighted loss on the folds. report: is called after each fit of a fold. Equal input gives equal output, to the
    last bit.
    """
    tried: tuple[Tried, ...] = ()
    if l2 is None:
        tried = tuple(_search(features, labels, weights, folds, num_classes, report))
        l2 = min(tried, key=lambda each: each.loss).l2 if tried else USUAL
    kernel, bias = Fit(features, labels, weights, num_classes).at(l2)
    return Regression(kernel, bias, l2, tried)


def _search(features, labels, weights, folds, num_classes: int, report) -> Iterator[Tried]:
    """Try strengths from the strongest on. Yields nothing if no fold leaves two classes to the others."""
    fits = {
        fold: Fit(features, labels, weights * (folds != fold), num_classes)
        for fold in np.unique(folds).tolist()
        if len(np.unique(labels[folds != fold])) > 1
    }
    known, best, worse = np.isin(folds, list(fits)), math.inf, 0
    for l2 in STRENGTHS if fits else ():
        logits = np.empty((len(labels), num_classes))
        for fold, each in fits.items():
            held = folds == fold
            kernel, bias = each.at(l2)
            logits[held] = features[held] @ kernel.astype(np.float32) + bias
            report()
        losses = cross_entropy(logits[known], labels[known])
        is_right = logits[known].argmax(axis=1) == labels[known]
        tried = Tried(l2, float(np.average(losses, weights=weights[known])), float(is_right.mean()))
        yield tried
        best, worse = min(best, tried.loss), 0 if tried.loss < best else worse + 1
        if worse == PATIENCE:
            return
