"""Global pooling of feature maps in numpy, as the layers of a head that pools compute it."""

import numpy as np

from vision.training.head import HeadPooling


def pool(features: np.ndarray, pooling: HeadPooling) -> np.ndarray:
    """(n, height, width, channels) maps → (n, columns) float32: the mean, the largest value, or both, of each channel.

    Features that are pooled already, (n, channels), stay as they are.
    """
    values = features.astype(np.float32, copy=False)
    if values.ndim == 2:
        return values
    maps = values.reshape(len(values), -1, values.shape[-1])
    return np.concatenate([REDUCTIONS[part](maps) for part in pooling.split("+")], axis=1)


def parts(shape: tuple[int, ...], pooling: HeadPooling) -> int:
    """How many poolings lie side by side in the columns of `pool`."""
    return len(pooling.split("+")) if len(shape) > 1 else 1


REDUCTIONS = {"avg": lambda maps: maps.mean(axis=1), "max": lambda maps: maps.max(axis=1)}
