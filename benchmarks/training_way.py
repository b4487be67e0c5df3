"""Run one way to feed a head once. benchmarks/training.py calls it for each run. The last line is one JSON object.

    python benchmarks/training_way.py write WAY --store STORE --folder FOLDER --rows N
    python benchmarks/training_way.py train WAY --store STORE --folder FOLDER --rows N --batch-size B
    python benchmarks/training_way.py read WAY --store STORE --folder FOLDER --rows N --batch-size B

WAY is one of benchmarks/peers/feeds.py, or `stream`: ours, as workers/jobs/train.py passes it to
vision/training/loop.py. Ours, `one_batch` and `ram_compiled` let XLA compile the optimizer's update, as
vision/training/loop.py does. All others train as Keras does by default.

`write` makes the files that the other verbs read.

`train` first runs a few steps that trace and warm. It then measures samples/s of epochs of `fit`, from the beginning of
an epoch to its end, and also from its first step to its last, without the time between epochs. Between epochs Keras
makes a new tf.data iterator and drops the old one, except for ours, which continues. If tf.data tunes itself,
TensorFlow 2.21 sometimes takes as long for that as for the epoch.

`train` then times the waiting in further epochs. Keras' train function takes the next batch inside its graph. For these
epochs it gets each batch from outside, so that `next` of the same tf.data iterator can be timed, and the time from the
beginning of the epoch to its first step. This time includes some 0.2 ms per step of calling, which `one_batch` shows
alone. It excludes what a reader costs the step by using the same cores and the same memory. The rates and the CPU time
per batch include that cost.

`read` measures the batches as `fit` would get them, without a head, in turn with a plain sequential `read_row_group` of
the store's shards, in one process. It touches a byte of each page of memory. Everything is in the page cache.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).parent
sys.path.insert(0, str(BENCHMARKS.parent))

from peers.feeds import FEEDS, Feed, Rows, of_dataset  # noqa: E402

from storage.classes import index_order  # noqa: E402
from storage.layout import Store  # noqa: E402
from storage.manifest.space import spaces  # noqa: E402
from storage.manifest.versions import latest_version  # noqa: E402
from storage.reading.samples import SampleTable, pin  # noqa: E402
from storage.reading.stream import FeatureStream  # noqa: E402
from vision.batches import dataset  # noqa: E402
from vision.training.head import HeadSpec  # noqa: E402
from vision.training.head_model import build_head, compile_update  # noqa: E402

WARM_STEPS = 8
READING_BATCH = 256
PAGE_BYTES = 4096
COMPILED = ("stream", "ram_compiled", "one_batch")


class Epochs:
    """The times of each epoch of `fit`: its begin, its first step, the end of its last step, and its end.

    number: the current epoch of `fit`. limit: the number of steps after which the training ends, if given.
    """

    def __init__(self, limit: int | None = None):
        self.number = 0
        self.moments: list[list[float]] = []
        self.cpu_seconds: list[float] = []
        self._limit = limit

    def callback(self):
        import keras

        epochs = self

        class Clock(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                epochs.number = epoch
                self.cpu, self.now = time.process_time(), [time.perf_counter(), 0.0, 0.0, 0.0]

            def on_train_batch_begin(self, batch, logs=None):
                self.now[1] = self.now[1] or time.perf_counter()

            def on_train_batch_end(self, batch, logs=None):
                self.now[2] = time.perf_counter()
                if epochs._limit and batch + 1 >= epochs._limit:
                    self.model.stop_training = True

            def on_epoch_end(self, epoch, logs=None):
                self.now[3] = time.perf_counter()
                epochs.moments.append(self.now)
                epochs.cpu_seconds.append(time.process_time() - self.cpu)

        return Clock()

    def seconds(self) -> np.ndarray:
        """(epochs, 3) seconds: until the first step, for all steps, and until the next epoch."""
        return np.diff(self.moments, axis=1)


class Ours:
    """The project's own stream over a pinned sample table, limited to a number of rows."""

    def __init__(self, given: argparse.Namespace):
        self.store, table = pinned(given.store, given.folder)
        self.table = SampleTable(table.samples[: given.rows], table.shards, table.classes)
        self.memory_mb = HeadSpec(table.classes).shuffle_memory_mb
        self.batch_size, self.seed = given.batch_size, given.seed

    def stream(self, batch_size: int, seed: int | None) -> FeatureStream:
        return FeatureStream(self.store, self.table, batch_size, seed, self.memory_mb)

    def fit(self, epochs: Epochs) -> dict:
        """The arguments that vision/training/loop.py passes to `fit`."""
        stream = self.stream(self.batch_size, self.seed)
        dtype = np.dtype(stream.kind.dtype).name
        batches = dataset(lambda: stream.epochs(epochs.number), stream.kind.shape, dtype)
        return {"x": batches, "steps_per_epoch": stream.steps, "shuffle": False}

    def rows(self, folder: Path) -> Rows:
        in_order = self.stream(READING_BATCH, None)
        row_bytes = in_order.kind.row_bytes
        return Rows(
            in_order.batches,
            folder,
            len(self.table),
            in_order.kind.shape,
            np.dtype(in_order.kind.dtype).name,
            self.batch_size,
            self.seed,
            int(self.memory_mb * 2**20 / 2 / row_bytes),  # as many rows as a window of ours
        )

    def plain(self) -> Iterator[np.ndarray]:
        """Every row group of the shards in sequence, read as pyarrow's documentation recommends."""
        import pyarrow.parquet as pq

        kind = self.stream(1, None).kind
        for index in np.unique(self.table.samples["shard"]):
            file = pq.ParquetFile(self.store.shard(self.table.shards[index].name))
            for group in range(file.num_row_groups):
                for chunk in file.read_row_group(group, columns=["features"])["features"].chunks:
                    size, start = len(chunk) * kind.row_bytes, chunk.offset * kind.row_bytes
                    values = np.frombuffer(chunk.buffers()[1], np.uint8, size, start)
                    yield values.view(kind.dtype).reshape(-1, *kind.shape)


def pinned(root: Path, folder: Path) -> tuple[Store, SampleTable]:
    """Pin the training split of the newest version of the store at `root`. Writes its sample table to `folder`."""
    (store,) = [space for space in spaces(root) if latest_version(space)]
    version = latest_version(store)
    assert version is not None
    return store, pin(store, version, "train", index_order(None, version.classes), folder)


def feed_of(way: str, ours: Ours, epochs: Epochs) -> Feed:
    if way == "stream":
        return Feed(
            lambda rows: ours.fit(epochs),
            read=lambda rows: (features for features, _ in ours.stream(ours.batch_size, ours.seed).batches()),
        )
    if way == "stream_dataset":  # includes what tf.data adds to the reader
        fit = lambda rows: ours.fit(epochs)  # noqa: E731
        return Feed(fit, read=of_dataset(fit))
    return FEEDS[way]


def write(way: str, ours: Ours, given: argparse.Namespace) -> dict:
    rows = ours.rows(given.folder)
    feed = feed_of(way, ours, Epochs())
    if feed.write:
        feed.write(rows)
        return {"bytes": sum(path.stat().st_size for path in given.folder.rglob("*") if path.is_file())}
    shards = np.unique(ours.table.samples["shard"]) if way == "stream" else ()
    return {"bytes": sum(ours.table.shards[index].size_bytes for index in shards)}


def train(way: str, ours: Ours, given: argparse.Namespace) -> dict:
    """Measure samples/s of each epoch, and the share of further epochs that `fit` waits for batches."""
    rows, epochs, timed = ours.rows(given.folder), Epochs(), Epochs()
    spec = HeadSpec(ours.table.classes, batch_size=given.batch_size, standardize=False)
    head = build_head(spec, rows.shape, None, given.seed)
    if way in COMPILED:
        head.optimizer.build(head.trainable_variables)
        compile_update(head)
    feed = feed_of(way, ours, epochs)

    def fit(count: int, clock: Epochs) -> None:
        head.fit(**feed.fit(rows), epochs=count, callbacks=[clock.callback()], verbose=0)

    fit(1, Epochs(WARM_STEPS))
    fit(given.epochs, epochs)
    waits: list[float] = []
    head.train_function = given_from_outside(head.train_function, waits)
    fit(1, Epochs(WARM_STEPS))
    waits.clear()
    fit(given.epochs, timed)
    samples = rows.steps * given.batch_size
    return {
        "samples_per_second": (samples / epochs.seconds().sum(axis=1)).tolist(),
        "samples_per_second_of_steps": (samples / epochs.seconds()[:, 1]).tolist(),
        "cpu_ms_a_batch": 1000 * statistics.median(epochs.cpu_seconds) / rows.steps,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    } | waiting(timed.seconds(), np.reshape(waits, (given.epochs, rows.steps)))


def waiting(seconds: np.ndarray, waits: np.ndarray) -> dict:
    """Medians over epochs: the share of an epoch that passes without a batch, and its parts."""
    start, whole = seconds[:, 0], seconds.sum(axis=1)
    return {
        "wait_share": float(np.median((start + waits.sum(axis=1)) / whole)),
        "later_wait_share": float(np.median(waits[:, 1:].sum(axis=1) / whole)),
        "start_seconds": float(np.median(start)),
        "first_wait_seconds": float(np.median(waits[:, 0])),
        "epoch_seconds": float(np.median(whole)),
    }


def given_from_outside(function, waits: list[float]):
    """Keras' train function, fed batch by batch. Appends the seconds of each `next` to `waits`."""

    def step(iterator):
        began = time.perf_counter()
        batch = next(iterator)
        waits.append(time.perf_counter() - began)
        return function(iter((batch,)))

    return step


def read(way: str, ours: Ours, given: argparse.Namespace) -> dict:
    """Measure rows/s of the way and of a plain sequential read, in alternate passes, without the first of each."""
    rows, feed = ours.rows(given.folder), feed_of(way, ours, Epochs())
    assert feed.read is not None, f"{way} has no reader"
    rates: dict[str, list[float]] = {"way": [], "plain": []}
    for _ in range(1 + given.epochs):
        rates["plain"].append(rate(ours.plain()))
        rates["way"].append(rate(feed.read(rows)))
    return {
        "rows_per_second": rates["way"][1:],
        "plain_rows_per_second": rates["plain"][1:],
        "to_plain": [one / other for one, other in zip(rates["way"][1:], rates["plain"][1:], strict=True)],
    }


def rate(batches: Iterator[np.ndarray]) -> float:
    began = time.perf_counter()
    count = 0
    for features in batches:
        features.reshape(-1).view(np.uint8)[::PAGE_BYTES].max()
        count += len(features)
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["write", "train", "read"])
    parser.add_argument("way", choices=[*FEEDS, "stream", "stream_dataset"])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where the way has its files")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=2, help="or passes of a reader")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    ours = Ours(given)
    verb = {"write": write, "train": train, "read": read}[given.verb]
    print(json.dumps(verb(given.way, ours, given)), flush=True)


if __name__ == "__main__":
    main()
