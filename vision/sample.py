"""The picture on which features are compared."""

import numpy as np


def sample_picture(size: int) -> np.ndarray:
    """(size, size, 3) uint8 with gradients, edges and noise, as in a photo."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[0:size, 0:size] / size
    slopes = 120 * np.stack([rows, columns, 1 - rows], axis=-1)
    edges = 60 * ((rows * 7).astype(int) + (columns * 5).astype(int) & 1)[..., None]
    return (slopes + edges + draw.uniform(0, 60, (size, size, 3))).astype(np.uint8)
