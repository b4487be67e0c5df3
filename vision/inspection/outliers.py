"""Images that are far from all others: the cosine distance to their nearest neighbours in a sample, in flat memory."""

from collections.abc import Callable

import numpy as np

NEIGHBOURS = 5  # the distance is that to the fifth: a few odd pictures of one kind do not hide each other
REFERENCES = 8_192  # images of the sample: 16 MB of 512 channels
BLOCK_ROWS = 2_048
SPREADS = 3.5  # robust standard deviations above the median of log distances (Iglewicz and Hoaglin, 1993)
LEAST = 50  # of fewer images the spread says nothing


def neighbour_distances(vectors: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """(n,) float32: the cosine distance of each row to its NEIGHBOURS-th nearest other row among at most REFERENCES.

    vectors: (m,) rows → (m, channels) float32. rows: (n,) distinct rows, in an order that has nothing to do with the pictures, as that of
    digests. NaN if there are not more than NEIGHBOURS rows.
    """
    chosen = rows[:: -(-len(rows) // REFERENCES)] if len(rows) else rows
    found = np.full(len(rows), np.nan, np.float32)
    if len(chosen) <= NEIGHBOURS:
        return found
    references = _units(vectors(chosen))
    for start in range(0, len(rows), BLOCK_ROWS):
        own = rows[start : start + BLOCK_ROWS]
        products = _units(vectors(own)) @ references.T
        at = np.minimum(np.searchsorted(chosen, own), len(chosen) - 1)
        is_self = chosen[at] == own
        products[np.flatnonzero(is_self), at[is_self]] = -np.inf
        found[start : start + len(own)] = 1 - np.partition(products, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS]
    return np.maximum(found, 0)


def far_threshold(distances: np.ndarray) -> float:
    """The distance above which an image is far from all others; infinite for fewer than LEAST images.

    Distances spread over orders of magnitude, so the median and the median absolute deviation are those of their logarithms.
    """
    if len(distances) < LEAST:
        return np.inf
    logs = np.log(np.maximum(distances, 1e-6))
    middle = np.median(logs)
    return float(np.exp(middle + SPREADS * 1.4826 * np.median(np.abs(logs - middle))))


def _units(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
