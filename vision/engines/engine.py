"""The interface of an engine: pixels in, features out."""

from typing import Protocol

import numpy as np

from vision.backbones.weights_file import Tensors
from vision.specs import FeatureSpec


class Engine(Protocol):
    """Turns pixels into features.

    name: the library and its version, which every shard records. fallback: why this engine replaces the
    chosen one; None if it is the chosen one. before: the block in front of which the network ends, for example `block5`;
    None is the whole network.
    """

    name: str
    spec: FeatureSpec
    fallback: str | None
    before: str | None

    @property
    def batch_size(self) -> int:
        """The number of images per batch. It shrinks if memory runs out."""

    def expected(self, picture: np.ndarray, tensors: Tensors) -> np.ndarray:
        """The features that a reference gives for the sample picture of the parity check."""

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """(n, size, size, 3) uint8 RGB → (n, *cut_shape(spec, before)) float32. Several threads may call it."""
