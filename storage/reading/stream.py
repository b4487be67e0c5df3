"""The stream: read batches of features and labels from shards in a given order, with bounded memory."""

import math
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice

import numpy as np
import pyarrow as pa

from storage.errors import StoreDamaged
from storage.layout import ROWS_PER_GROUP, Store
from storage.reading.buffer_pool import Buffers
from storage.reading.open_shards import OpenShards
from storage.reading.order import Order
from storage.reading.samples import SHARD_PLACES, SampleTable, ViewTable, places
from storage.shards.shard import FeatureType

# One thread keeps up with a head that trains on the other cores of a small machine. A second hides disk latency.
READ_THREADS = 2

Batch = tuple[np.ndarray, np.ndarray]


class FeatureStream:
    """Batches of a sample table, pass after pass. A pass has every sample once; of a ViewTable, in one view.

    A batch is (features (n, *shape) in the stored dtype, labels (n,) uint16). n is `batch_size`, and less in the last
    batch of a pass.

    seed: None keeps the order of the table (validation); a number shuffles.
    memory_mb: limits the features in memory, in MiB: the current window and the one read ahead. Samples of equal files
    share a row, which a window holds once. The order of a window takes up to 60 bytes per sample on top. If one window
    holds the whole table, a shuffled stream reads it once and takes later passes from memory.
    steps: batches per epoch. None makes an epoch one pass. Otherwise each epoch starts where the previous one ended.
    with_replacement: see storage/reading/order.py.
    read_threads: the number of row groups read in parallel; does not change the batches.
    Raises ValueError if the table has no samples.
    """

    def __init__(
        self,
        store: Store,
        table: SampleTable | ViewTable,
        batch_size: int,
        seed: int | None,
        memory_mb: float,
        steps: int | None = None,
        with_replacement: bool = False,
        read_threads: int = READ_THREADS,
    ):
        if not len(table):
            raise ValueError("a stream needs at least one sample")
        self.table, self.seed = table, seed
        self._way_out = store.way_out
        self.batch_size = min(batch_size, len(table))
        self.steps = steps or self._steps_a_pass
        self.read_threads = read_threads
        self._shards = OpenShards(store, table.shards)
        self.kind: FeatureType = self._shards.kind(int(table.samples["shard"].flat[0]))
        groups_in_memory = memory_mb * 2**20 / 2 / (ROWS_PER_GROUP * self.kind.row_bytes)
        window_groups = max(1, int(min(groups_in_memory, len(table))))  # a pass never has more groups than samples

        def of_pass(number: int) -> tuple[SampleTable, Order]:
            drawn = table.of_pass(seed, number)
            return drawn, Order(tuple(drawn.group_starts().tolist()), window_groups, seed, with_replacement)

        self._of_pass = lru_cache(maxsize=3)(of_pass)  # for the current pass, the one read ahead, the one counted
        self._only: tuple[np.ndarray, np.ndarray] | None = None  # rows and features, if one window holds the table

    @property
    def order(self) -> Order:
        """The order of the first pass; of every pass if the table has only one view."""
        return self._pass(0)[1]

    def _pass(self, number: int) -> tuple[SampleTable, Order]:
        return self._of_pass(number if isinstance(self.table, ViewTable) else 0)

    @property
    def _steps_a_pass(self) -> int:
        return -(-len(self.table) // self.batch_size)

    def batches(
        self, epoch: int = 0, first_step: int = 0, reader: int = 0, readers: int = 1, *, epochs: int | None = 1
    ) -> Iterator[Batch]:
        """Yield the batches of `epochs` epochs, from step `first_step` of `epoch` on. None means endlessly.

        With several readers, reader number `reader` takes every `readers`-th batch, counted from the start of `epoch`.
        Buffers are reused, and freed when iteration ends.
        """
        memory = Buffers(self.batch_size * self.kind.row_bytes)
        first = epoch * self.steps
        end = None if epochs is None else first + epochs * self.steps
        with closing(self._windows(first + first_step, end)) as windows:
            window = None
            for step in count(first + first_step) if end is None else range(first + first_step, end):
                number, within = divmod(step, self._steps_a_pass)
                at, last = within * self.batch_size, min((within + 1) * self.batch_size, len(self.table))
                batch = None if (step - first - reader) % readers else self._new_batch(last - at, memory)
                while at < last:
                    if window is None or not window.contains(number, at):
                        window = None  # release its buffer before waiting for the next window
                        window = next(windows)
                    at += window.copy_to(at, last, batch)
                if batch is not None:
                    yield batch

    def epochs(self, first_epoch: int = 0) -> Iterator[Batch]:
        """Yield the batches of all epochs endlessly, for a custom training loop or a Keras generator."""
        return self.batches(first_epoch, epochs=None)

    def class_counts(self) -> np.ndarray:
        """(classes,) the number of samples of each class."""
        return np.bincount(self._pass(0)[0].samples["class"], minlength=len(self.table.classes))

    def labels(self, samples: np.ndarray) -> np.ndarray:
        """(n,) uint16, the labels of samples of a table with only one view."""
        return self._pass(0)[0].samples["class"][samples]

    def samples(
        self, epoch: int = 0, first_step: int = 0, *, epochs: int | None = 1
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (pass, samples) of each batch of `batches`, without reading features.

        samples: (n,) indices in the pass's table.
        """
        first = epoch * self.steps
        steps = count(first + first_step) if epochs is None else range(first + first_step, first + epochs * self.steps)
        number = -1
        for step in steps:
            if step // self._steps_a_pass != number:
                number, order = step // self._steps_a_pass, self._pass(step // self._steps_a_pass)[1]
                whole = np.concatenate([order.samples(number, window) for window in range(order.num_windows)])
            within = step % self._steps_a_pass
            yield number, whole[within * self.batch_size : (within + 1) * self.batch_size]

    def numbered(self, epoch: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield the batches of an epoch as (samples, features, labels). samples: (n,) indices in the pass's table."""
        for (_, samples), batch in zip(self.samples(epoch), self.batches(epoch), strict=True):
            yield samples, *batch

    def _windows(self, first_step: int, end: int | None) -> Generator["Window", None, None]:
        """Yield the windows of these steps. Reads the next window while the caller uses the current one."""
        needed = self._places(first_step, end)
        window_rows = min(len(self.table), self.order.window_groups * ROWS_PER_GROUP)
        memory = Buffers(window_rows * self.kind.row_bytes)
        with ThreadPoolExecutor(1, "read-ahead") as ahead, ThreadPoolExecutor(self.read_threads, "read") as threads:
            reading = deque(ahead.submit(self._read, *place, threads, memory) for place in islice(needed, 1))
            while reading:
                reading.extend(ahead.submit(self._read, *place, threads, memory) for place in islice(needed, 1))
                yield reading.popleft().result()
        pa.default_memory_pool().release_unused()

    def _places(self, first_step: int, end: int | None) -> Iterator[tuple[int, int]]:
        """Yield (pass, window) of each window with samples of these steps."""
        first = self._place(first_step, 0)
        last = (math.inf, 0) if end is None else self._place(end - 1, self.batch_size - 1)
        for number in count(first[0]):
            for window in range(first[1] if number == first[0] else 0, self._pass(number)[1].num_windows):
                if (number, window) > last:
                    return
                yield number, window

    def _place(self, step: int, sample: int) -> tuple[int, int]:
        """The (pass, window) of a sample of a step's batch."""
        number, within = divmod(step, self._steps_a_pass)
        place = min(within * self.batch_size + sample, len(self.table) - 1)
        return number, int(np.searchsorted(self._pass(number)[1].window_ends(number), place, side="right"))

    def _new_batch(self, size: int, memory: Buffers) -> Batch:
        return memory.empty((size, *self.kind.shape), self.kind.dtype), np.empty(size, np.uint16)

    def _read(self, number: int, window: int, threads: Executor, memory: Buffers) -> "Window":
        table, order = self._pass(number)
        held = self._only or self._held(table, order, number, window, threads, memory)
        if order.num_windows == 1 and self.seed is not None and table is self.table:
            self._only = held
        rows, features = held
        samples = table.samples[order.samples(number, window)]
        begin = int(order.window_ends(number)[window]) - len(samples)
        pick = np.searchsorted(rows, places(samples)).astype(np.uint32)
        return Window(number, begin, features, samples["class"].copy(), pick)

    def _held(
        self, table: SampleTable, order: Order, number: int, window: int, threads: Executor, memory: Buffers
    ) -> tuple[np.ndarray, np.ndarray]:
        """The distinct places of a window's rows, ascending, and their features.

        A row that several samples share occurs once.
        """
        starts = order.group_starts
        groups = [
            _distinct(places(table.samples[starts[group] : starts[group + 1]]))
            for group in np.sort(order.groups(number, window))
        ]
        return np.concatenate(groups), self._gathered(groups, threads, memory)

    def _gathered(self, groups: list[np.ndarray], threads: Executor, memory: Buffers) -> np.ndarray:
        """The features of rows, given as places by row group. A single whole group is not copied."""
        if len(groups) == 1:
            stored, rows = self._stored(groups[0])
            return stored if len(rows) == len(stored) else stored[rows]
        sizes = [len(group) for group in groups]
        features = memory.empty((sum(sizes), *self.kind.shape), self.kind.dtype)

        def fill(group: np.ndarray, features: np.ndarray) -> None:
            stored, rows = self._stored(group)
            np.take(stored, rows, axis=0, out=features, mode="clip")

        list(threads.map(fill, groups, np.split(features, np.cumsum(sizes)[:-1])))
        return features

    def _stored(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The row group of these places as stored, and the rows of the places within it.

        Raises StoreDamaged if the shard has fewer rows than its version lists.
        """
        shard, row = divmod(int(rows[0]), SHARD_PLACES)
        stored = self._shards.read_group(shard, row // ROWS_PER_GROUP, self.kind)
        rows = rows % ROWS_PER_GROUP
        if rows[-1] >= len(stored):
            name = self.table.shards[shard].name
            raise StoreDamaged(f"shard {name} has fewer rows than its version lists; {self._way_out}")
        return stored, rows


def _distinct(ascending: np.ndarray) -> np.ndarray:
    return ascending[np.flatnonzero(np.diff(ascending, prepend=-1))]


@dataclass(frozen=True)
class Window:
    """Samples that are shuffled together, in output order.

    number: the pass over the table. begin: the number of samples of the pass before this window. features:
    (rows, *shape), the distinct rows in the order on disk. labels: (samples,) uint16. pick: (samples,) uint32, the row
    of each sample.
    """

    number: int
    begin: int
    features: np.ndarray
    labels: np.ndarray
    pick: np.ndarray

    def contains(self, number: int, place: int) -> bool:
        """Whether the window has the sample at `place` of this pass."""
        return number == self.number and place < self.begin + len(self.pick)

    def copy_to(self, place: int, last: int, batch: Batch | None) -> int:
        """Copy the window's samples of the pass from `place` up to `last` to a batch that ends at `last`.

        Returns their number. Copies nothing if `batch` is None.
        """
        copied = slice(place - self.begin, last - self.begin)
        picked = self.pick[copied]
        if batch is not None:
            features, labels = (array[len(array) - (last - place) :][: len(picked)] for array in batch)
            np.take(self.features, picked, axis=0, out=features, mode="clip")  # other modes copy through a buffer
            labels[:] = self.labels[copied]
        return len(picked)
