"""Multinomial logistic regression on pooled features: a head of one layer whose weights are the optimum of a convex loss.

The loss is the mean cross-entropy plus half of `l2` times the squares of the weights, without the biases. scikit-learn's L-BFGS
finds the optimum in less than a second for a few thousand images, so there are no epochs to resume.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vision.training.evaluation import cross_entropy
from vision.training.folds import FOLDS

# Powers of ten, the strongest first, until the loss rises. Then half a power of ten to both sides of the best.
DECADES = tuple(10.0**power for power in range(1, -7, -1))
HALF = 10**0.5
MOST_TRIED = len(DECADES) + 2
USUAL = 0.1  # without enough images to validate on
MOST_ITERATIONS = 1000
# The largest gradient at which the solver stops. Strengths differ by more than what the search leaves out.
TOLERANCE, TOLERANCE_OF_SEARCH = 1e-4, 1e-3


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

    def record(self, images: int, left_out: int) -> dict:
        """How `l2` was chosen, for head.json. images: the number of samples of the fit. left_out: of those that it did not take."""
        tried = [vars(each) for each in self.tried]
        return {"l2": self.l2, "folds": FOLDS, "images": images, "left_out": left_out, "tried": tried}


@lru_cache
def _libraries():
    """The thread pools of numpy, scipy and scikit-learn, which takes milliseconds to find."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class Fit:
    """Fits of one set of samples, each from where the last one ended. A sample of weight 0 is left out."""

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray,
        num_classes: int,
        tolerance: float = TOLERANCE,
    ):
        from sklearn.linear_model import LogisticRegression

        self._data, self._num_classes = (features, labels, weights), num_classes
        self._solver = LogisticRegression(tol=tolerance, max_iter=MOST_ITERATIONS, warm_start=True)

    def at(self, l2: float) -> tuple[np.ndarray, np.ndarray]:
        """Kernel (columns, classes) and bias (classes,) of the optimum.

        A class without samples gets a bias that makes it improbable. Of two classes only the second has weights, the log-odds.
        """
        features, labels, weights = self._data
        present = np.unique(labels)
        kernel, bias = np.zeros((features.shape[1], self._num_classes)), np.full(self._num_classes, -math.log(1e7))
        if len(present) == 1:
            bias[present] = 0
            return kernel, bias
        self._solver.set_params(C=1 / (l2 * weights.sum()))
        # One thread: threads of a busy machine wait for each other, and would add in another order.
        with _libraries().limit(limits=1), warnings.catch_warnings():
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
        tried = tuple(sorted(_search(Folds(features, labels, weights, folds, num_classes, report)), key=_strength))
        l2 = min(tried, key=lambda each: each.loss).l2 if tried else USUAL
    kernel, bias = Fit(features, labels, weights, num_classes).at(l2)
    return Regression(kernel, bias, l2, tried)


def _strength(tried: Tried) -> float:
    return -tried.l2


def _search(folds: "Folds") -> Iterator[Tried]:
    """Try strengths until the best is known to half a power of ten. Yields nothing if the folds cannot be fitted."""
    best: Tried | None = None
    for l2 in DECADES if folds.fits else ():
        tried = folds.tried(l2)
        yield tried
        if best is not None and tried.loss >= best.loss:
            break
        best = tried
    if best is not None:
        yield from (folds.tried(l2) for l2 in (best.l2 * HALF, best.l2 / HALF))


class Folds:
    """The fits that leave out one fold each. A fold that leaves less than two classes to the others is never left out."""

    def __init__(self, features, labels, weights, folds, num_classes: int, report: Callable[[], None]):
        self._features, self._labels, self._weights, self._folds = features, labels, weights, folds
        self._num_classes, self._report = num_classes, report
        self.fits = {
            fold: Fit(features, labels, weights * (folds != fold), num_classes, TOLERANCE_OF_SEARCH)
            for fold in np.unique(folds).tolist()
            if len(np.unique(labels[folds != fold])) > 1
        }

    def tried(self, l2: float) -> Tried:
        """Fit a strength, and evaluate it on the folds that were left out."""
        known, logits = np.isin(self._folds, list(self.fits)), np.empty((len(self._labels), self._num_classes))
        for fold, each in self.fits.items():
            held = self._folds == fold
            kernel, bias = each.at(l2)
            logits[held] = self._features[held] @ kernel.astype(np.float32) + bias
            self._report()
        losses = cross_entropy(logits[known], self._labels[known])
        is_right = logits[known].argmax(axis=1) == self._labels[known]
        return Tried(l2, float(np.average(losses, weights=self._weights[known])), float(is_right.mean()))
