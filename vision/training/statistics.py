"""Feature statistics for the standardisation, and class weights."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# A channel that varies less than this part of the mean variance is dead in the training rows; without
# a floor a single later value in it would be blown up a thousandfold.
VARIANCE_FLOOR = 1e-4


@dataclass(frozen=True)
class Statistics:
    """Mean and variance of each channel over the training rows, float64."""

    mean: np.ndarray
    variance: np.ndarray


def feature_statistics(batches: Iterable[np.ndarray]) -> Statistics:
    """One sequential pass over (n, ..., channels) batches; sums in float64, in the order given.

    Batches are merged by Chan, Golub and LeVeque's update (1979), which does not cancel. The variance
    has the floor VARIANCE_FLOOR times its mean over the channels, and is 1 where all are constant.
    """
    count, mean, squares = 0, np.zeros(0), np.zeros(0)
    for batch in batches:
        rows = batch.reshape(-1, batch.shape[-1]).astype(np.float64)
        batch_mean = rows.mean(axis=0)
        batch_squares = ((rows - batch_mean) ** 2).sum(axis=0)
        if not count:
            count, mean, squares = len(rows), batch_mean, batch_squares
            continue
        total = count + len(rows)
        delta = batch_mean - mean
        mean = mean + delta * (len(rows) / total)
        squares = squares + batch_squares + delta**2 * (count * len(rows) / total)
        count = total
    variance = squares / count
    floor = VARIANCE_FLOOR * variance.mean()
    return Statistics(mean, np.maximum(variance, floor) if floor > 0 else np.ones_like(variance))


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """Weights of the classes, from the number of samples of each, that make every class count the same.

    samples / (classes * count), over the classes that have samples, as scikit-learn's `balanced` (G. King
    and L. Zeng, "Logistic regression in rare events data", 2001); the mean over all samples is 1.
    """
    return np.where(counts > 0, counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)), 0)
