"""Exact cosine neighbours of pooled vectors, block by block: memory does not grow with the number of images."""

import numpy as np

BLOCK_ROWS = 8192  # 16 MB of 512 channels
ROUNDING = 1e-5  # a float32 product differs from the float64 one by less, also with 4,096 channels


def nearest(
    vectors: np.ndarray, queries: np.ndarray, top: int, is_allowed: np.ndarray | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The `top` most similar rows of each query, most similar first, and their cosine similarities.

    vectors: (n, channels) float32. queries: (q, channels). is_allowed: (n,) bool, the rows to look at; None: all. Returns
    q pairs of (k,) int64 rows and (k,) float64 similarities, k = min(top, allowed rows). Similarities are computed in
    float64, and equal ones are ordered by row: of vectors in order of digest, by digest. A vector of zeros has the
    similarity 0 to every vector.
    """
    units = _units(queries.astype(np.float64))
    found = [_Best(top) for _ in units]
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = vectors[start : start + BLOCK_ROWS]
        scores = (block @ units.T.astype(np.float32)) / _norms(block)[:, None]
        if is_allowed is not None:
            scores[~is_allowed[start : start + BLOCK_ROWS]] = -np.inf
        for best, unit, column in zip(found, units, scores.T, strict=True):
            best.add(start, block, unit, column)
    return [(best.rows, best.similarities) for best in found]


class _Best:
    """The best rows of one query so far. rows, similarities: (k,), in order."""

    def __init__(self, top: int):
        self._top = top
        self.rows, self.similarities = np.empty(0, np.int64), np.empty(0)

    def add(self, start: int, block: np.ndarray, unit: np.ndarray, scores: np.ndarray) -> None:
        """Take the best of a block that begins at row `start`. scores: (rows,) float32, -inf where not allowed."""
        least = -np.inf
        if len(self.rows) == self._top:
            least = self.similarities[-1]
        if len(scores) > self._top:
            least = max(least, np.partition(scores, -self._top)[-self._top])
        near = np.flatnonzero((scores >= least - ROUNDING) & (scores > -np.inf))
        exact = (_units(block[near].astype(np.float64)) * unit).sum(
            axis=1
        )  # a matrix product may differ between equal rows
        rows = np.concatenate([self.rows, start + near])
        similarities = np.concatenate([self.similarities, exact])
        order = np.lexsort((rows, -similarities))[: self._top]
        self.rows, self.similarities = rows[order], similarities[order]


def _norms(block: np.ndarray) -> np.ndarray:
    """(n,) float32: the lengths of vectors; 1 for a vector of zeros."""
    lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
    return np.where(lengths > 0, lengths, 1).astype(np.float32)


def _units(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, in float64. Equal vectors give equal ones, whatever their neighbours in the array."""
    lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    return vectors / np.where(lengths > 0, lengths, 1)
