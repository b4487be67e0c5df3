"""What every engine shares: its batches run one at a time, whatever threads ask for them."""

from abc import ABC, abstractmethod
from threading import Lock

import numpy as np


class SerialEngine(ABC):
    """An engine that several threads may share.

    A training stream and a validation stream use one engine from two threads: tf.data prefetches the next epoch while
    validation runs. A session, its shape and its buffers belong to one batch at a time. The lock costs no throughput,
    since a batch uses all threads of the engine, and no memory, which a second session would.
    """

    def __init__(self) -> None:
        self._lock = Lock()

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """(n, size, size, 3) uint8 RGB → (n, *cut_shape(spec, before)) float32."""
        with self._lock:
            return self._features(pixels)

    @abstractmethod
    def _features(self, pixels: np.ndarray) -> np.ndarray:
        """What `features` gives; one thread is in here at a time."""
