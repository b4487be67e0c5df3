"""The stream: batches of features and labels in an order, from shards, in flat memory."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from storage.layout import ROWS_PER_GROUP, Store
from storage.order import Order
from storage.samples import SampleTable
from storage.shards import FeatureType, Shard

OPEN_SHARDS = 64


class FeatureStream:
    """Batches over a sample table, every sample once an epoch.

    seed: None gives the order of the table (validation), a number the shuffle of that seed.
    memory_mb: bounds what is held: the window being given and the one read ahead.
    A batch is (features (n, *shape) in the stored dtype, labels (n,) u16), n = `batch_size` but for the
    last of an epoch.
    """

    def __init__(self, store: Store, table: SampleTable, batch_size: int, seed: int | None, memory_mb: float):
        if not len(table):
            raise ValueError("a stream needs at least one sample")
        self.table = table
        self.batch_size = min(batch_size, len(table))
        self._open = lru_cache(maxsize=OPEN_SHARDS)(lambda index: Shard(store, table.shards[index]))
        self.kind: FeatureType = self._open(int(table.samples["shard"][0])).kind
        window_groups = int(memory_mb * 2**20 / 2 / (ROWS_PER_GROUP * self.kind.row_bytes))
        starts = tuple(table.group_starts().tolist())
        self.order = Order(starts, max(1, window_groups), seed)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-len(self.table) // self.batch_size)

    def batches(self, epoch: int = 0, first_step: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of an epoch from `first_step` on; the next window is read while one is given."""
        skip = first_step * self.batch_size
        ends = self.order.window_ends(epoch)
        first = int(np.searchsorted(ends, skip, side="right"))
        skip -= int(ends[first - 1]) if first else 0
        rest: tuple[np.ndarray, np.ndarray] | None = None
        with ThreadPoolExecutor(1, "read-ahead") as ahead:
            reading = ahead.submit(self._read, epoch, first)
            for window in range(first, self.order.num_windows):
                features, labels, pick = reading.result()
                if window + 1 < self.order.num_windows:
                    reading = ahead.submit(self._read, epoch, window + 1)
                rest = yield from self._cut(features, labels, pick[skip:], rest)
                skip = 0
        if rest is not None:
            yield rest

    def _cut(self, features: np.ndarray, labels: np.ndarray, pick: np.ndarray, rest):
        """Give the whole batches of a window, beginning with what the one before left; return the rest."""
        at = 0
        if rest is not None:
            at = self.batch_size - len(rest[1])
            head = pick[:at]
            rest = np.concatenate([rest[0], features[head]]), np.concatenate([rest[1], labels[head]])
            if len(rest[1]) < self.batch_size:
                return rest
            yield rest
        for start in range(at, len(pick) - self.batch_size + 1, self.batch_size):
            index = pick[start : start + self.batch_size]
            yield features[index], labels[index]
        left = pick[at + (len(pick) - at) // self.batch_size * self.batch_size :]
        return (features[left], labels[left]) if len(left) else None

    def _read(self, epoch: int, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The features and labels of a window as they lie on disk, and the order in which to give them."""
        indices = np.concatenate(
            [np.arange(*self.order.group_starts[g : g + 2]) for g in self.order.groups(epoch, window)]
        )
        features = np.empty((len(indices), *self.kind.shape), self.kind.dtype)
        filled = 0
        for group in self.order.groups(epoch, window):
            samples = self.table.samples[slice(*self.order.group_starts[group : group + 2])]
            stored = self._open(int(samples["shard"][0])).read_group(int(samples["row"][0]) // ROWS_PER_GROUP)
            features[filled : filled + len(samples)] = stored[samples["row"] % ROWS_PER_GROUP]
            filled += len(samples)
        position = np.argsort(indices, kind="stable")
        pick = position[np.searchsorted(indices[position], self.order.samples(epoch, window))]
        return features, self.table.samples["class"][indices], pick
