"""Out-of-fold probabilities: each image is predicted by a logistic regression that was fitted without it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vision.training.folds import stratified_folds
from vision.training.logistic import Fit, fit
from vision.training.statistics import feature_statistics

# More samples make the fits slower, not the ranking better. The strength needs fewer than the weights.
MOST_FITTED = 16_384  # 64 MB of 1,024 columns
MOST_SEARCHED = 4_096
BLOCK_ROWS = 8_192

Rows = Callable[[np.ndarray], np.ndarray]  # (m,) places of samples → (m, columns) float32


@dataclass(frozen=True)
class HeldOut:
    """The fits of a cross-validation, and the samples that they predict.

    folds: (n,) the fold of each sample. layers: fold → kernel (columns, classes) and bias (classes,) float32, fitted without
    the samples of the fold. mean, scale: (columns,) float32. l2: strength of the fits.
    """

    rows: Rows
    folds: np.ndarray
    layers: dict[int, tuple[np.ndarray, np.ndarray]]
    mean: np.ndarray
    scale: np.ndarray
    l2: float

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield places (m,) int64 and probabilities (m, classes) float64, each sample once. Memory holds one block."""
        for start in range(0, len(self.folds), BLOCK_ROWS):
            folds = self.folds[start : start + BLOCK_ROWS]
            for fold in np.unique(folds).tolist():
                places = start + np.flatnonzero(folds == fold)
                kernel, bias = self.layers[fold]
                yield places, _softmax(((self.rows(places) - self.mean) / self.scale) @ kernel + bias)


def hold_out(rows: Rows, labels: np.ndarray, images: np.ndarray, num_classes: int, parts: int) -> HeldOut:
    """Fit a logistic regression for each of FOLDS folds.

    labels, images: (n,) the class of each sample, and a uint64 from the digest of its image, which decides its fold: copies
    of an image share one. parts: how many poolings lie side by side in the columns. Fits at most MOST_FITTED samples, those
    with the lowest numbers. Equal input gives equal output, in any order of the samples but for rounding.
    """
    folds = stratified_folds(labels, images)
    chosen = np.argsort(images, kind="stable")[:MOST_FITTED]
    features = rows(chosen)
    statistics = feature_statistics(
        (features[at : at + BLOCK_ROWS] for at in range(0, len(features), BLOCK_ROWS)), parts
    )
    mean = statistics.mean.astype(np.float32)
    scale = np.sqrt(statistics.variance).astype(np.float32)
    features -= mean
    features /= scale
    few = slice(MOST_SEARCHED)
    ones, own, fold_of = np.ones(len(chosen)), labels[chosen], folds[chosen]
    l2 = fit(features[few], own[few], ones[few], fold_of[few], num_classes).l2
    layers = {}
    for fold in np.unique(folds).tolist():
        kernel, bias = Fit(features, own, ones * (fold_of != fold), num_classes).at(l2)
        layers[fold] = kernel.astype(np.float32), bias.astype(np.float32)
    return HeldOut(rows, folds, layers, mean, scale, l2)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
