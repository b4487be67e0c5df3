"""Whether two pictures are one picture: resized, recompressed, cropped a little or flipped."""

from functools import lru_cache

import numpy as np

SIDE = 64  # pixels of a small picture (vision/pixels/decode.py)
CELLS = 24  # a side of what is compared
MARGINS = (0.0, 0.03, 0.06, 0.09, 0.12)  # parts of a side that a crop may take from each end
ROUNDS = 2
# The least correlation of one picture (benchmarks/near_duplicates.py): 0.97 for known edits, 0.70 for 1,770 other pairs.
SAME = 0.9
CROPPED_FROM = 0.2  # without alignment; a crop of 10 % at each edge still has 0.31 (measured)
NOISE = 4.0  # grey levels: pictures of less contrast do not match by chance


def same_picture(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of two small pictures (SIDE, SIDE, 3) uint8 RGB, from -1 to 1; SAME or more if they are one picture.

    They are aligned if that may matter: either may be the other without up to 12 % at each edge, and one may be mirrored. Colours count: the correlation is
    over all cells of all channels.
    """
    whole, mirrored = _correlation(one, other), _correlation(one, other[:, ::-1])
    if mirrored > whole:
        whole, other = mirrored, other[:, ::-1]
    if not CROPPED_FROM <= whole < SAME:
        return whole
    return max(whole, _cropped(one, other), _cropped(other, one))


def _cropped(picture: np.ndarray, cropped: np.ndarray) -> float:
    """The best correlation of a window of `picture` with the whole of `cropped`: the windows of one side, then of the other."""
    source, windows = picture.astype(np.float32), _windows()
    target = _normal(_cells(cropped)[None])[0]
    best, x = -1.0, 0
    for _ in range(ROUNDS):
        columns = np.einsum("cx,yxk->yck", windows[x], source)
        rows = _normal(np.tensordot(windows, columns, axes=(2, 0))) @ target
        lines = np.einsum("ry,yxk->rxk", windows[int(rows.argmax())], source)
        found = _normal(np.tensordot(windows, lines, axes=(2, 1)).swapaxes(1, 2)) @ target
        x, best = int(found.argmax()), max(best, float(rows.max()), float(found.max()))
    return best


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.prod([_normal(_cells(each)[None])[0] for each in (one, other)], axis=0).sum())


def _cells(picture: np.ndarray) -> np.ndarray:
    """(CELLS, CELLS, 3) float32: the means of a picture's cells."""
    whole = _windows()[0]
    return np.einsum("ry,cx,yxk->rck", whole, whole, picture.astype(np.float32), optimize=True)


def _normal(cells: np.ndarray) -> np.ndarray:
    """(n, …) → (n, values): without the mean, and of length 1 unless the contrast is as low as the noise."""
    flat = cells.reshape(len(cells), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.sqrt(np.square(flat).sum(axis=1, keepdims=True) + flat.shape[1] * np.float32(NOISE**2) / 100)


@lru_cache(1)
def _windows() -> np.ndarray:
    """(windows, CELLS, SIDE) float32: the mean over the pixels of each cell, for each window of a side; the whole side first."""
    ends = [(low * SIDE, SIDE - high * SIDE) for low in MARGINS for high in MARGINS]
    cuts = np.array([np.linspace(low, high, CELLS + 1) for low, high in ends])[:, :, None]
    pixels = np.arange(SIDE)
    shared = np.minimum(cuts[:, 1:], pixels + 1) - np.maximum(cuts[:, :-1], pixels)
    weights = np.maximum(shared, 0)
    return (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)
