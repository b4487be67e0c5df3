"""The VGG family in plain numpy: slow, short, and of no engine, so that every engine can be held against it."""

from itertools import groupby, takewhile

import numpy as np

from vision.backbones.preprocessing import preprocessed
from vision.backbones.weights_file import Tensors
from vision.specs import FeatureSpec


def blocks(tensors: Tensors) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Kernels (3, 3, inputs, outputs) and biases, block by block."""
    named = groupby(tensors.items(), lambda item: item[0].partition("_")[0])
    return [[(kernel, bias) for _, (kernel, bias) in layers] for _, layers in named]


def pooled(maps: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    """The last feature maps (n, h, w, channels) as the features of a spec: whole, or one value a channel."""
    if spec.pooling == "none":
        return maps
    return maps.mean(axis=(1, 2)) if spec.pooling == "avg" else maps.max(axis=(1, 2))


def parted(tensors: Tensors, before: str | None) -> tuple[Tensors, Tensors]:
    """The tensors below a block, and its own with those behind it; None: all, and none."""
    below = dict(takewhile(lambda item: item[0].partition("_")[0] != before, tensors.items()))
    return below, {name: arrays for name, arrays in tensors.items() if name not in below}


def features(spec: FeatureSpec, tensors: Tensors, pixels: np.ndarray, before: str | None = None) -> np.ndarray:
    """(n, size, size, 3) uint8 RGB → (n, *cut_shape(spec, before)) float32; None: (n, *spec.shape).

    3x3 convolutions that keep the size, relu behind each, 2x2 maxima behind each block (Simonyan and
    Zisserman 2014, section 2.1).
    """
    maps = preprocessed(pixels, spec)
    for block in blocks(parted(tensors, before)[0]):
        for kernel, bias in block:
            maps = np.maximum(_convolved(maps, kernel) + bias, 0)
        height, width = (side // 2 * 2 for side in maps.shape[1:3])
        cells = maps[:, :height, :width].reshape(len(maps), height // 2, 2, width // 2, 2, -1)
        maps = cells.max(axis=(2, 4))
    return pooled(maps, spec) if before is None else maps


def _convolved(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Each of the nine taps is a matrix product over all places."""
    _, height, width, _ = maps.shape
    framed = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = ((row, column) for row in range(3) for column in range(3))
    return sum(  # type: ignore[return-value]
        framed[:, row : row + height, column : column + width] @ kernel[row, column] for row, column in taps
    )
