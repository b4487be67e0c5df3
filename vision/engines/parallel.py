"""Several copies of one engine in one process, each with threads of its own: a batch is shared out among them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np

from vision.backbones.weights_file import Tensors
from vision.engines.engine import Engine


class ParallelEngine:
    """An engine of several equal ones; vision/engines/engine.py describes its attributes.

    A feature depends on its image alone, so it has the same bits whichever copy computes it, and however many copies
    there are. With the threads of one engine MNN splits an image differently, which changes the last digits. The
    libraries release Python's lock while they compute. However many threads ask, no more copies compute than there are.
    """

    fallback: str | None = None

    def __init__(self, engines: Sequence[Engine]):
        self._engines = tuple(engines)
        self._free: SimpleQueue[Engine] = SimpleQueue()
        for engine in self._engines:
            self._free.put(engine)
        self._pool = ThreadPoolExecutor(len(self._engines), "engine")
        self.name, self.spec, self.before = engines[0].name, engines[0].spec, engines[0].before

    @property
    def batch_size(self) -> int:
        """Number of images that keeps each copy busy with one whole batch."""
        return sum(engine.batch_size for engine in self._engines)

    def expected(self, picture: np.ndarray, tensors: Tensors) -> np.ndarray:
        return self._engines[0].expected(picture, tensors)

    def features(self, pixels: np.ndarray) -> np.ndarray:
        rounds = -(-len(pixels) // self.batch_size)
        parts = np.array_split(pixels, max(1, min(len(pixels), rounds * len(self._engines))))
        return np.concatenate([*self._pool.map(self._features, parts)])

    def _features(self, pixels: np.ndarray) -> np.ndarray:
        engine = self._free.get()
        try:
            return engine.features(pixels)
        finally:
            self._free.put(engine)
