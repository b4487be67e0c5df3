"""The VGG family in plain numpy: slow, short and independent of every engine, as the reference for checks."""

from collections.abc import Iterator
from itertools import groupby, takewhile

import numpy as np

from vision.backbones.preprocessing import preprocessed
from vision.backbones.weights_file import Tensors
from vision.specs import FeatureSpec


def blocks(tensors: Tensors) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Per block, the kernels (3, 3, inputs, outputs) and biases of its convolutions."""
    named = groupby(tensors.items(), lambda item: item[0].partition("_")[0])
    return [[(kernel, bias) for _, (kernel, bias) in layers] for _, layers in named]


def pooled(maps: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    """The features of a spec from the last feature maps (n, h, w, channels): the maps, or one value per channel."""
    if spec.pooling == "none":
        return maps
    return maps.mean(axis=(1, 2)) if spec.pooling == "avg" else maps.max(axis=(1, 2))


def parted(tensors: Tensors, before: str | None) -> tuple[Tensors, Tensors]:
    """The tensors below the block `before`, and the others. None: all tensors, and none."""
    below = dict(takewhile(lambda item: item[0].partition("_")[0] != before, tensors.items()))
    return below, {name: arrays for name, arrays in tensors.items() if name not in below}


def features(spec: FeatureSpec, tensors: Tensors, pixels: np.ndarray, before: str | None = None) -> np.ndarray:
    """(n, size, size, 3) uint8 RGB → (n, *cut_shape(spec, before)) float32.

    3x3 convolutions that keep the size, each followed by relu, and a 2x2 max pooling after each block (Simonyan and
    Zisserman 2014, section 2.1).
    """
    maps = preprocessed(pixels, spec)
    for maps in convolutions(maps, parted(tensors, before)[0]):  # noqa: B007, B020
        pass
    maps = _halved(maps)
    return pooled(maps, spec) if before is None else maps


def convolutions(maps: np.ndarray, tensors: Tensors) -> Iterator[np.ndarray]:
    """The output of each convolution, after its relu. maps: preprocessed pixels, float32 or float64."""
    for number, block in enumerate(blocks(tensors)):
        maps = _halved(maps) if number else maps
        for kernel, bias in block:
            maps = np.maximum(_convolved(maps, kernel) + bias, 0)
            yield maps


def _halved(maps: np.ndarray) -> np.ndarray:
    height, width = (side // 2 * 2 for side in maps.shape[1:3])
    cells = maps[:, :height, :width].reshape(len(maps), height // 2, 2, width // 2, 2, -1)
    return cells.max(axis=(2, 4))


def _convolved(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A 3x3 convolution as nine matrix products, one per tap, each over all places."""
    _, height, width, _ = maps.shape
    framed = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = ((row, column) for row in range(3) for column in range(3))
    return sum(  # type: ignore[return-value]
        framed[:, row : row + height, column : column + width] @ kernel[row, column] for row, column in taps
    )
