"""The base of every engine: one batch at a time, whichever threads ask."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from threading import Lock
from typing import Any

import numpy as np

from vision.backbones import vgg_reference as vgg
from vision.backbones.own_file import EXPECTED
from vision.backbones.vgg_reference import pooled
from vision.backbones.weights_file import Tensors
from vision.specs import FeatureSpec


class SerialEngine(ABC):
    """An engine that several threads may share; vision/engines/engine.py describes its attributes.

    A training stream and a validation stream use one engine from two threads: tf.data prefetches the next epoch while
    validation runs. A session, its shape and its buffers belong to one batch at a time. The lock costs no throughput,
    since a batch uses all threads of the engine, and no memory, which a second session would.
    """

    name: str
    batch_size: int
    fallback: str | None = None
    distributions: tuple[str, ...] = ()  # pip's names of the libraries that compute
    # Measured (docs/engines.md): what a child fills for libraries and weights, and per pixel of a batch.
    fixed_mb: float
    bytes_a_pixel: float

    @staticmethod
    def obstacle(spec: FeatureSpec) -> str:
        """Why the engine cannot compute these features on this machine; empty if it can. Loads no library."""
        return ""

    @staticmethod
    @abstractmethod
    def usual_batch(spec: FeatureSpec) -> int:
        """Images per batch on a CPU with enough memory."""

    @classmethod
    def memory_mb(cls, spec: FeatureSpec, batch: int) -> float:
        """Private memory in MB that a child with this engine fills on a CPU, with batches of `batch` images."""
        return cls.fixed_mb + batch * spec.image_size**2 * cls.bytes_a_pixel / 2**20

    def __init__(self, spec: FeatureSpec, tensors: Tensors, threads: int, before: str | None = None):
        """tensors: the backbone's weights. threads: CPU threads of one batch. before: see vision/specs.py, cut_shape."""
        self.spec, self.before = spec, before
        self._lock = Lock()

    def measure(self) -> dict[str, Any]:
        """Run the network to find facts that its features need, as JSON. Only the first process does this."""
        return {}

    def adopt(self, measured: Mapping[str, Any]) -> None:  # noqa: B027 - most engines measure nothing
        """Use the facts that `measure` returned, here or in another process."""

    def limit_batch(self, largest: int) -> None:
        """Infer at most `largest` images per batch, because memory holds no more."""
        self.batch_size = min(self.batch_size, largest)

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """(n, size, size, 3) uint8 RGB → (n, *cut_shape(spec, before)) float32."""
        with self._lock:
            return self._features(pixels)

    def expected(self, picture: np.ndarray, tensors: Tensors) -> np.ndarray:
        """What the features of one sample picture, (1, size, size, 3), should be: those of the reference in numpy, or those
        that Keras gave when it described the network."""
        if EXPECTED in tensors:
            (found,) = tensors[EXPECTED]
            return pooled(found, self.spec)
        return vgg.features(self.spec, tensors, picture, self.before)

    @abstractmethod
    def _features(self, pixels: np.ndarray) -> np.ndarray:
        """See `features`. Only one thread at a time calls it."""
