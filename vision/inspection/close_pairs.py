"""All pairs of vectors with a high cosine similarity, exactly and in flat memory.

A product of the vectors' first principal axes, plus the product of the lengths of the rest, is at least the similarity
(Cauchy and Schwarz). A pair whose bound is below the threshold needs no further look, which saves most of the work.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BLOCK_ROWS = 4096  # 8 MB of 512 channels
TILE_ROWS = 512  # 512 x 4,096 float32 products stay in the cache of a core
AXES = 96
SAMPLE_ROWS = 4096  # the axes are those of so many rows
DENSE_FRACTION = 1 / 128  # of a tile: the full product of a tile is cheaper than so many single ones
PAIRS_AT_A_TIME = 4096
MOST_PAIRS = 2**20  # 24 MB; more are reduced to the most similar of each row
ROUNDING = 1e-5  # a float32 product differs from the float64 one by less


@dataclass(frozen=True)
class ClosePairs:
    """Pairs of rows, each once, sorted by (first, second), first < second.

    similarity: (m,) float64. cut: rows that had more than `most` partners, of which the most similar are kept.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray
    cut: int


def close_pairs(vectors: np.ndarray, rows: np.ndarray, threshold: float, most: int = 32) -> Iterator[ClosePairs]:
    """Yield the pairs of `rows` (n,) of `vectors` (·, channels) float32 whose cosine is at least the threshold, in order.

    A row is paired with at most `most` later rows, so that a set of a thousand equal pictures costs no million pairs.
    Memory does not depend on the number of rows.
    """
    axes = _axes(vectors, rows)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = _Block(vectors, rows, start, axes)
        found = np.empty((3, 0))
        for other in range(start, len(rows), BLOCK_ROWS):
            right = block if other == start else _Block(vectors, rows, other, axes)
            found = np.concatenate([found, _pairs(block, right, threshold, most)], axis=1)
            if found.shape[1] > MOST_PAIRS:
                found = found[:, _ranked(found, most + 1)]
        yield _closest(found, rows, most)


class _Block:
    """Consecutive rows as unit vectors, and their coordinates along the axes with the length of the rest at the end."""

    def __init__(self, vectors: np.ndarray, rows: np.ndarray, start: int, axes: np.ndarray | None):
        self.start = start
        self.units = units(vectors[rows[start : start + BLOCK_ROWS]])
        self.bounds: np.ndarray | None = None
        if axes is not None:
            along = self.units @ axes
            rest = 1 - np.square(along).sum(axis=1, keepdims=True)
            self.bounds = np.hstack([along, np.sqrt(np.maximum(rest, 0) + ROUNDING)])


def units(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1; a vector of zeros stays."""
    lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    return vectors / np.where(lengths > 0, lengths, 1)


def _axes(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
    """(channels, AXES) float32: the axes along which a sample of the unit vectors is longest; None if it saves nothing."""
    channels = vectors.shape[1]
    if channels < 2 * AXES or len(rows) < 2 * TILE_ROWS:
        return None
    sample = units(vectors[rows[:: -(-len(rows) // SAMPLE_ROWS)]].astype(np.float64))
    return np.ascontiguousarray(np.linalg.eigh(sample.T @ sample)[1][:, -AXES:].astype(np.float32))


def _pairs(left: _Block, right: _Block, threshold: float, most: int) -> np.ndarray:
    """(3, m) float64: first, second and similarity of the pairs between two blocks, numbered by place in `rows`."""
    found = [np.empty((3, 0))]
    for top in range(0, len(left.units), TILE_ROWS):
        part = slice(top, top + TILE_ROWS)
        first, second = _candidates(left, right, part, threshold, most)
        first += top
        if left is right:
            first, second = first[first < second], second[first < second]
        similarity = _similarities(left.units, right.units, first, second)
        is_close = similarity >= threshold
        found.append(np.stack([first[is_close] + left.start, second[is_close] + right.start, similarity[is_close]]))
    return np.concatenate(found, axis=1)


def _candidates(left: _Block, right: _Block, part: slice, threshold: float, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Places in the tile and in the right block of all pairs that may reach the threshold."""
    limit = np.float32(threshold - ROUNDING)
    if left.bounds is not None and right.bounds is not None:
        bounds = left.bounds[part] @ right.bounds.T
        hits = np.flatnonzero(bounds.max(axis=1) >= limit)
        picked = bounds[hits] >= limit
        if np.count_nonzero(picked) <= DENSE_FRACTION * bounds.size:
            at, second = np.nonzero(picked)
            return hits[at], second
    products = left.units[part] @ right.units.T
    if left is right:
        below = np.arange(len(right.units)) <= (part.start + np.arange(len(products)))[:, None]
        products[below] = -1  # else they take the places of later rows
    _keep_best(products, limit, most)
    first, second = np.nonzero(products >= limit)
    return first, second


def _keep_best(products: np.ndarray, limit: np.float32, most: int) -> None:
    """Set all but the `most` + 1 largest products of a row to -1, if more reach the limit."""
    many = np.flatnonzero(np.count_nonzero(products >= limit, axis=1) > most + 1)
    for row in many:
        least = np.partition(products[row], -(most + 1))[-(most + 1)]
        keep = np.flatnonzero(products[row] >= least)[: most + 1]
        values = products[row][keep]
        products[row] = -1
        products[row][keep] = values


def _similarities(left: np.ndarray, right: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(m,) float64: the cosine of each pair."""
    found = np.empty(len(first))
    for start in range(0, len(first), PAIRS_AT_A_TIME):
        part = slice(start, start + PAIRS_AT_A_TIME)
        one, other = (units(side[at[part]].astype(np.float64)) for side, at in ((left, first), (right, second)))
        found[part] = (one * other).sum(axis=1)
    return found


def _ranked(pairs: np.ndarray, most: int) -> np.ndarray:
    """The places of the `most` most similar pairs of each first row, by first row, then similarity, then second row."""
    order = np.lexsort((pairs[1], -pairs[2], pairs[0]))
    first = pairs[0, order]
    begins = np.flatnonzero(np.diff(first, prepend=-1))
    rank = np.arange(len(first)) - np.repeat(begins, np.diff(np.append(begins, len(first))))
    return order[rank < most]


def _closest(pairs: np.ndarray, rows: np.ndarray, most: int) -> ClosePairs:
    """The `most` most similar partners of each first row, and how many rows had more."""
    kept = pairs[:, _ranked(pairs, most)]
    cut = np.unique(pairs[0], return_counts=True)[1] > most
    kept = kept[:, np.lexsort((kept[1], kept[0]))]
    first, second = kept[:2].astype(np.int64)
    return ClosePairs(rows[first], rows[second], kept[2], int(np.count_nonzero(cut)))
