"""Reusable buffers for batches and windows."""

import math
import weakref

import numpy as np

ALIGNMENT = 64  # bytes; what TensorFlow asks for before it takes an array as it lies
KEPT = 3  # one that is filled, one that is read, one on the way between them


class Buffers:
    """Gives arrays of up to `num_bytes`, and reuses their memory when the last view of them is gone.

    The kernel clears memory that is new to a process, page by page. For a batch of 128 features of VGG16 that took longer
    than to decompress them. Several threads may use one pool.
    """

    def __init__(self, num_bytes: int):
        self._num_bytes = num_bytes
        self._free: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | str) -> np.ndarray:
        """An array in C order, not set to anything, that begins at a multiple of ALIGNMENT."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > self._num_bytes:
            raise ValueError(f"a buffer of {self._num_bytes} bytes cannot hold {size}")
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(self._num_bytes + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        lent = np.frombuffer(memory.data[start : start + size], np.uint8)  # every view of it has it as its base
        weakref.finalize(lent, self._back, memory).atexit = False
        return lent.view(dtype).reshape(shape)

    def _back(self, memory: np.ndarray) -> None:
        if len(self._free) < KEPT:
            self._free.append(memory)
