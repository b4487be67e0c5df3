"""The stream: batches of features and labels in an order, from shards, in flat memory."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import lru_cache
from itertools import islice

import numpy as np

from storage.layout import ROWS_PER_GROUP, Store
from storage.order import Order
from storage.samples import SampleTable
from storage.shards import FeatureType, Shard

OPEN_SHARDS = 64


class FeatureStream:
    """Batches over a sample table, one pass after another, each of them every sample once.

    seed: None gives the order of the table (validation), a number the shuffle of that seed.
    memory_mb: bounds what is held: the window being given and the one read ahead.
    steps: batches an epoch; None makes an epoch one pass, else epochs go on where the one before ended.
    with_replacement: see storage/order.py.
    A batch is (features (n, *shape) in the stored dtype, labels (n,) u16), n = `batch_size` but for the
    last of a pass.
    """

    def __init__(
        self,
        store: Store,
        table: SampleTable,
        batch_size: int,
        seed: int | None,
        memory_mb: float,
        steps: int | None = None,
        with_replacement: bool = False,
    ):
        if not len(table):
            raise ValueError("a stream needs at least one sample")
        self.table = table
        self.batch_size = min(batch_size, len(table))
        self.steps = steps or self._steps_a_pass
        self._open = lru_cache(maxsize=OPEN_SHARDS)(lambda index: Shard(store, table.shards[index]))
        self.kind: FeatureType = self._open(int(table.samples["shard"][0])).kind
        window_groups = int(memory_mb * 2**20 / 2 / (ROWS_PER_GROUP * self.kind.row_bytes))
        starts = tuple(table.group_starts().tolist())
        self.order = Order(starts, max(1, window_groups), seed, with_replacement)

    @property
    def _steps_a_pass(self) -> int:
        return -(-len(self.table) // self.batch_size)

    def batches(self, epoch: int = 0, first_step: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of an epoch from `first_step` on."""
        step, end = epoch * self.steps + first_step, (epoch + 1) * self.steps
        while step < end:
            number, within = divmod(step, self._steps_a_pass)
            with closing(self._pass(number, within)) as batches:
                for batch in islice(batches, end - step):
                    yield batch
                    step += 1

    def _pass(self, number: int, first_step: int) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
        """The batches of one pass over the table; the next window is read while one is given."""
        skip = first_step * self.batch_size
        ends = self.order.window_ends(number)
        first = int(np.searchsorted(ends, skip, side="right"))
        skip -= int(ends[first - 1]) if first else 0
        rest: tuple[np.ndarray, np.ndarray] | None = None
        with ThreadPoolExecutor(1, "read-ahead") as ahead:
            reading = ahead.submit(self._read, number, first)
            for window in range(first, self.order.num_windows):
                features, labels, pick = reading.result()
                if window + 1 < self.order.num_windows:
                    reading = ahead.submit(self._read, number, window + 1)
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

    def _read(self, number: int, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The features and labels of a window as they lie on disk, and the order in which to give them."""
        indices = np.concatenate(
            [np.arange(*self.order.group_starts[g : g + 2]) for g in self.order.groups(number, window)]
        )
        features = np.empty((len(indices), *self.kind.shape), self.kind.dtype)
        filled = 0
        for group in self.order.groups(number, window):
            samples = self.table.samples[slice(*self.order.group_starts[group : group + 2])]
            stored = self._open(int(samples["shard"][0])).read_group(int(samples["row"][0]) // ROWS_PER_GROUP)
            features[filled : filled + len(samples)] = stored[samples["row"] % ROWS_PER_GROUP]
            filled += len(samples)
        position = np.argsort(indices, kind="stable")
        pick = position[np.searchsorted(indices[position], self.order.samples(number, window))]
        return features, self.table.samples["class"][indices], pick
