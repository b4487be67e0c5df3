"""What an engine is: pixels in, features out."""

from typing import Protocol

import numpy as np

from vision.specs import FeatureSpec


class Engine(Protocol):
    """What turns pixels into features.

    name: the library and its version, kept in every shard. batch_size: images that it takes at a time; it
    may become smaller where memory runs out. fallback: why it stands in for the engine
    that was chosen, None where it is that one. before: the block in front of which it ends, as `block5`; None where the
    network is whole.
    """

    name: str
    spec: FeatureSpec
    batch_size: int
    fallback: str | None
    before: str | None

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """(n, size, size, 3) uint8 RGB → (n, *cut_shape(spec, before)) float32. Several threads may call it."""
