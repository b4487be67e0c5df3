"""Reusable buffers for batches and windows."""

import math
import weakref

import numpy as np

ALIGNMENT = 64  # bytes; TensorFlow uses an array without a copy only if it is aligned so
MAX_FREE = 3  # buffers: one is filled, one is read, one is in transit


class Buffers:
    """A pool of arrays of up to `num_bytes` bytes. It reuses an array's memory when the last view of it is gone.

    Fresh memory is slow, because the kernel clears it page by page: for a batch of 128 VGG16 features that took longer
    than their decompression. Thread-safe.
    """

    def __init__(self, num_bytes: int):
        self._num_bytes = num_bytes
        self._free: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | str) -> np.ndarray:
        """An uninitialized array in C order, aligned to ALIGNMENT bytes. Raises ValueError if a buffer is too small."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > self._num_bytes:
            raise ValueError(f"a buffer of {self._num_bytes} bytes cannot hold {size}")
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(self._num_bytes + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        buffer = np.frombuffer(memory.data[start : start + size], np.uint8)  # each view keeps it alive as its base
        weakref.finalize(buffer, self._give_back, memory).atexit = False
        return buffer.view(dtype).reshape(shape)

    def _give_back(self, memory: np.ndarray) -> None:
        if len(self._free) < MAX_FREE:
            self._free.append(memory)
