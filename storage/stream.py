"""The stream: batches of features and labels in an order, from shards, in flat memory."""

from collections.abc import Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from functools import lru_cache
from itertools import count, islice
from threading import Lock

import numpy as np

from storage.errors import StoreDamaged
from storage.layout import ROWS_PER_GROUP, Store
from storage.order import Order
from storage.samples import SampleTable
from storage.shards import FeatureType, Shard

OPEN_SHARDS = 64
# One reader keeps up with a head that trains on the other cores of a small machine; a second hides what a disk waits.
READ_THREADS = 2

Batch = tuple[np.ndarray, np.ndarray]


class FeatureStream:
    """Batches over a sample table, one pass after another, each of them every sample once.

    seed: None gives the order of the table (validation), a number the shuffle of that seed.
    memory_mb: bounds what is held: the window being given and the one read ahead.
    steps: batches an epoch; None makes an epoch one pass, else epochs go on where the one before ended.
    with_replacement: see storage/order.py. read_threads: how many row groups are read at a time; changes no batch.
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
        read_threads: int = READ_THREADS,
    ):
        if not len(table):
            raise ValueError("a stream needs at least one sample")
        self.table = table
        self._way_out = store.way_out
        self.batch_size = min(batch_size, len(table))
        self.steps = steps or self._steps_a_pass
        self.read_threads = read_threads
        # A Parquet file is read by one thread at a time.
        self._open = lru_cache(maxsize=OPEN_SHARDS)(lambda index: (Shard(store, table.shards[index]), Lock()))
        self.kind: FeatureType = self._open(int(table.samples["shard"][0]))[0].kind
        window_groups = int(memory_mb * 2**20 / 2 / (ROWS_PER_GROUP * self.kind.row_bytes))
        starts = tuple(table.group_starts().tolist())
        self.order = Order(starts, max(1, window_groups), seed, with_replacement)

    @property
    def _steps_a_pass(self) -> int:
        return -(-len(self.table) // self.batch_size)

    def batches(self, epoch: int = 0, first_step: int = 0, reader: int = 0, readers: int = 1) -> Iterator[Batch]:
        """The batches of an epoch from `first_step` on; of several readers, each takes every `readers`-th of them."""
        step, end = epoch * self.steps + first_step, (epoch + 1) * self.steps
        while step < end:
            number, within = divmod(step, self._steps_a_pass)
            with closing(self._pass(number, within, reader + within - step + epoch * self.steps, readers)) as batches:
                for batch in islice(batches, end - step):
                    if batch is not None:
                        yield batch
                    step += 1

    def epochs(self, first_epoch: int = 0) -> Iterator[Batch]:
        """The batches of all epochs, without an end: what a loop of one's own, or a generator for Keras, takes."""
        for epoch in count(first_epoch):
            yield from self.batches(epoch)

    def class_counts(self) -> np.ndarray:
        """(classes,) how many samples each class has."""
        return np.bincount(self.table.samples["class"], minlength=len(self.table.classes))

    def _pass(self, number: int, first_step: int, reader: int, readers: int) -> Generator[Batch | None, None, None]:
        """The batches of one pass over the table, None for those of other readers: of the step numbers, those that
        leave the same rest as `reader` are this one's. The next window is read while one is given.
        """
        skip = first_step * self.batch_size
        ends = self.order.window_ends(number)
        first = int(np.searchsorted(ends, skip, side="right"))
        skip -= int(ends[first - 1]) if first else 0
        rest: Batch | None = None
        step = first_step
        with ThreadPoolExecutor(1, "read-ahead") as ahead, ThreadPoolExecutor(self.read_threads, "read") as threads:
            reading = ahead.submit(self._read, number, first, threads)
            for window in range(first, self.order.num_windows):
                features, labels, pick = reading.result()
                if window + 1 < self.order.num_windows:
                    reading = ahead.submit(self._read, number, window + 1, threads)
                pick, skip = pick[skip:], 0
                if rest is not None:
                    pick, rest = self._filled(rest, features, labels, pick)
                    if len(rest[1]) < self.batch_size:
                        continue
                    yield rest if (step - reader) % readers == 0 else None
                    step, rest = step + 1, None
                whole = len(pick) // self.batch_size * self.batch_size
                for start in range(0, whole, self.batch_size):
                    index = pick[start : start + self.batch_size]
                    yield _taken(features, labels, index) if (step - reader) % readers == 0 else None
                    step += 1
                rest = _taken(features, labels, pick[whole:]) if whole < len(pick) else None
                del features, labels  # before the next is waited for
        if rest is not None:
            yield rest if (step - reader) % readers == 0 else None

    def _filled(
        self, rest: Batch, features: np.ndarray, labels: np.ndarray, pick: np.ndarray
    ) -> tuple[np.ndarray, Batch]:
        """What a window before has left, filled up to a batch, and the places of this window that are not in it."""
        at = self.batch_size - len(rest[1])
        more = _taken(features, labels, pick[:at])
        return pick[at:], (np.concatenate([rest[0], more[0]]), np.concatenate([rest[1], more[1]]))

    def _read(self, number: int, window: int, threads: Executor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The features and labels of a window as they lie on disk, and the order in which to give them."""
        groups, starts = self.order.groups(number, window), np.asarray(self.order.group_starts)
        indices = np.concatenate([np.arange(starts[group], starts[group + 1]) for group in groups])
        features = np.empty((len(indices), *self.kind.shape), self.kind.dtype)
        ends = np.cumsum(starts[groups + 1] - starts[groups])
        list(threads.map(self._fill, groups, np.split(features, ends[:-1])))
        position = np.argsort(indices, kind="stable")
        pick = position[np.searchsorted(indices[position], self.order.samples(number, window))]
        return features, self.table.samples["class"][indices], pick

    def _fill(self, group: int, features: np.ndarray) -> None:
        """Read the features of a row group's samples."""
        samples = self.table.samples[slice(*self.order.group_starts[group : group + 2])]
        shard, lock = self._open(int(samples["shard"][0]))
        if shard.kind != self.kind:
            raise StoreDamaged(f"shard {shard.ref.name} holds {shard.kind}, the others {self.kind}; {self._way_out}")
        with lock:
            stored = shard.read_group(int(samples["row"][0]) // ROWS_PER_GROUP)
        rows = samples["row"] % ROWS_PER_GROUP
        if rows[-1] >= len(stored):
            raise StoreDamaged(f"shard {shard.ref.name} has fewer rows than its version lists; {self._way_out}")
        np.take(stored, rows, axis=0, out=features, mode="clip")  # any other mode fills a buffer first


def _taken(features: np.ndarray, labels: np.ndarray, index: np.ndarray) -> Batch:
    return np.take(features, index, axis=0), labels[index]
