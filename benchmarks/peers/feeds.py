"""Other ways to feed `fit`: one npz per image, an array in memory, HF datasets, TFRecord.

Each way defines how to write its files, the arguments of `fit`, and the same batches without a head. Remarks on speed
were measured on two cores with features of 7x7x512 in float16.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tutorial_generator import random_batches

Batches = Iterable[tuple[np.ndarray, np.ndarray]]
TFRECORD_ROWS = 2048  # a file of 100 MB, as TensorFlow's guide recommends


@dataclass(frozen=True)
class Rows:
    """The rows to train on, and how to train on them.

    in_order: yields all rows, batch by batch, as (features (n, *shape) in the stored dtype, labels (n,) u16).
    folder: for the files of a way. count: number of rows, a whole number of batches. shuffle_rows: most rows that a way
    with a shuffle buffer may hold in it.
    """

    in_order: Callable[[], Batches]
    folder: Path
    count: int
    shape: tuple[int, ...]
    dtype: str
    batch_size: int
    seed: int
    shuffle_rows: int

    @property
    def steps(self) -> int:
        return self.count // self.batch_size


class Feed(NamedTuple):
    """fit: returns the arguments of `fit`. write: makes files, if any. read: one pass of the features for `fit`."""

    fit: Callable[[Rows], dict]
    write: Callable[[Rows], None] | None = None
    read: Callable[[Rows], Iterator[np.ndarray]] | None = None


def _one_by_one(rows: Rows) -> Iterator[tuple[np.ndarray, int]]:
    for features, labels in rows.in_order():
        yield from zip(features, labels.tolist(), strict=True)


def of_dataset(fit: Callable[[Rows], dict]) -> Callable[[Rows], Iterator[np.ndarray]]:
    """The reader of a way that passes a tf.data pipeline to `fit`."""
    return lambda rows: (features for features, _ in islice(fit(rows)["x"].as_numpy_iterator(), rows.steps))


# One npz per image, float32, drawn at random for each batch, as in the tutorial of 2018


def write_npz(rows: Rows) -> None:
    for number, (features, label) in enumerate(_one_by_one(rows)):
        np.savez(rows.folder / f"{number:07d}_{label}.npz", features=features.astype(np.float32), label=label)


def fit_npz(rows: Rows) -> dict:
    return {
        "x": random_batches(rows.folder, rows.batch_size, rows.seed),
        "steps_per_epoch": rows.steps,
        "shuffle": False,
    }


def read_npz(rows: Rows) -> Iterator[np.ndarray]:
    batches = random_batches(rows.folder, rows.batch_size, rows.seed)
    return (features for features, _ in islice(batches, rows.steps))


# An array in memory


def fit_ram(rows: Rows, dtype: str | None = None) -> dict:
    """Keras converts float16 to float32 once, before the first epoch, and gathers each batch's rows in tf.data."""
    features = np.empty((rows.count, *rows.shape), dtype or rows.dtype)
    labels = np.empty(rows.count, np.int32)
    filled = 0
    for some, theirs in rows.in_order():
        features[filled : filled + len(some)] = some
        labels[filled : filled + len(some)] = theirs
        filled += len(some)
    assert filled == rows.count
    return {"x": features, "y": labels, "batch_size": rows.batch_size, "shuffle": True}


# HF datasets


def write_datasets(rows: Rows) -> None:
    import datasets

    datasets.disable_progress_bars()
    kinds = datasets.Features({"features": datasets.Array3D(rows.shape, rows.dtype), "label": datasets.Value("int64")})

    def examples():
        for features, label in _one_by_one(rows):
            yield {"features": features, "label": label}

    cache = rows.folder / "cache"
    data = datasets.Dataset.from_generator(examples, features=kinds, cache_dir=str(cache), writer_batch_size=128)
    data.save_to_disk(rows.folder / "data")
    shutil.rmtree(cache)


def fit_datasets(rows: Rows, num_workers: int = 0) -> dict:
    """Memory-mapped, shuffled as a whole. The library itself converts float16 to float32 in numpy."""
    import datasets

    data = datasets.load_from_disk(rows.folder / "data")
    return {
        "x": data.to_tf_dataset(
            rows.batch_size,
            columns="features",
            label_cols="label",
            shuffle=True,
            prefetch=True,
            num_workers=num_workers,
        ),
        "shuffle": False,  # the dataset shuffles itself
    }


# TFRecord


def write_tfrecord(rows: Rows) -> None:
    """Uncompressed: zlib reads at a third of the rate."""
    import tensorflow as tf

    examples = _one_by_one(rows)
    for start in range(0, rows.count, TFRECORD_ROWS):
        with tf.io.TFRecordWriter(str(rows.folder / f"{start:07d}.tfrecord")) as writer:
            for features, label in islice(examples, TFRECORD_ROWS):
                kinds = {
                    "features": tf.train.Feature(bytes_list=tf.train.BytesList(value=[features.tobytes()])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=kinds)).SerializeToString())


def fit_tfrecord(rows: Rows) -> dict:
    """As TensorFlow's guide to tf.data recommends: interleaved files, a shuffle buffer, whole batches parsed at once.

    There is no `cache()`, since it would make this the array in memory.
    """
    import tensorflow as tf

    kinds = {"features": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def parsed(examples):
        batch = tf.io.parse_example(examples, kinds)
        features = tf.reshape(tf.io.decode_raw(batch["features"], rows.dtype), (-1, *rows.shape))
        return tf.cast(features, tf.float32), batch["label"]

    paths = sorted(map(str, rows.folder.glob("*.tfrecord")))
    files = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths), rows.seed)
    examples = files.interleave(tf.data.TFRecordDataset, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    batches = examples.shuffle(rows.shuffle_rows, rows.seed).batch(rows.batch_size)
    ready = batches.map(parsed, num_parallel_calls=tf.data.AUTOTUNE)
    ready = ready.apply(tf.data.experimental.assert_cardinality(rows.steps)).prefetch(tf.data.AUTOTUNE)
    return {"x": ready, "shuffle": False}


# One repeated batch: the rate of the head alone


def fit_one_batch(rows: Rows) -> dict:
    import tensorflow as tf

    features, labels = next(iter(rows.in_order()))
    batch = features[: rows.batch_size].astype(np.float32), labels[: rows.batch_size].astype(np.int32)
    return {"x": tf.data.Dataset.from_tensors(batch).repeat(rows.steps).prefetch(2), "shuffle": False}


FEEDS = {
    "one_batch": Feed(fit_one_batch),
    "npz": Feed(fit_npz, write_npz, read_npz),
    "ram": Feed(fit_ram),
    "ram_float32": Feed(lambda rows: fit_ram(rows, "float32")),
    "ram_compiled": Feed(lambda rows: fit_ram(rows, "float32")),  # with our compiled optimizer update
    "datasets": Feed(fit_datasets, write_datasets, of_dataset(fit_datasets)),
    "tfrecord": Feed(fit_tfrecord, write_tfrecord, of_dataset(fit_tfrecord)),
}
