"""Feature statistics for the standardisation, and class weights."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# A channel whose variance is below this part of the mean variance is dead in the training rows. Without a floor,
# standardisation would enlarge a single later value in it a thousandfold.
VARIANCE_FLOOR = 1e-4


@dataclass(frozen=True)
class Statistics:
    """Mean and variance of each channel over the training rows, float64."""

    mean: np.ndarray
    variance: np.ndarray


def feature_statistics(batches: Iterable[np.ndarray], parts: int = 1) -> Statistics:
    """One sequential pass over (n, ..., channels) batches. Sums are float64, in the given order.

    The update of Chan, Golub and LeVeque (1979) merges batches without cancellation. The floor of the variance is
    VARIANCE_FLOOR times its mean over the channels; the variance is 1 if all channels are constant. parts: how many kinds of
    channels lie side by side, equally many of each. Every kind has a floor of its own.
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
    variance = np.concatenate([_floored(part) for part in np.split(squares / count, parts)])
    return Statistics(mean, variance)


def _floored(variance: np.ndarray) -> np.ndarray:
    floor = VARIANCE_FLOOR * variance.mean()
    return np.maximum(variance, floor) if floor > 0 else np.ones_like(variance)


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """Weights that make every class count the same, from the number of samples per class.

    samples / (classes * count) over the classes that have samples, as scikit-learn's `balanced` (G. King and L. Zeng,
    "Logistic regression in rare events data", 2001). The mean over all samples is 1.
    """
    return np.where(counts > 0, counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)), 0)
