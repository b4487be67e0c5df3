"""Peers of Keras alone: the 2018 tutorial's loop, and today's image_dataset_from_directory with predict."""

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # off by default on CPUs without VNNI; doubles the rate here
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from keras.applications.vgg16 import preprocess_input

from peers.clock import Done, done, make_durable, steady
from peers.photos import CELLS, CHANNELS, FEATURES, SIZE, Photo, decode

Given = argparse.Namespace
SHARD = 256


def vgg16(weights: Path, threads: int | None) -> keras.Model:
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    model = keras.applications.VGG16(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
    model.load_weights(weights)
    return model


def loop(photos: list[Photo], given: Given) -> dict:
    """One image at a time: load, predict, save `<i>_<label>.npz`. Resizes bilinearly; the tutorial used nearest."""
    model = vgg16(given.weights, given.threads)

    def load(path: str) -> np.ndarray:
        image = keras.utils.load_img(path, target_size=(SIZE, SIZE), interpolation="bilinear")
        return preprocess_input(np.expand_dims(keras.utils.img_to_array(image), 0))

    predict = model.predict_on_batch if given.variant else partial(model.predict, verbose=0)
    threads = given.threads or os.cpu_count()
    settings = {"batch": 1, "processes": 1, "threads": threads, "onednn": True, "files": "an npz an image"}
    settings |= {"call": "predict_on_batch" if given.variant else "predict"}
    events: list[Done] = []
    if given.engine_only:
        for x in [load(photo.path) for photo in photos]:
            predict(x)
            events.append(done(1))
        return _engine(steady(events, time.perf_counter(), warm_batches=8), settings)
    for number, photo in enumerate(photos):
        features = predict(load(photo.path))
        np.savez(given.out / f"{number}_{photo.label}.npz", features=features, label=photo.label)
        events.append(done(1))
    rate = steady(events, make_durable(given.out), warm_batches=8)
    return rate | {"features_shape": features.shape[1:], "same_pixels": True, "settings": settings}


class Moments(keras.callbacks.Callback):
    """Records when each batch of a predict is done."""

    def __init__(self, batch: int, total: int):
        super().__init__()
        self.events: list[Done] = []
        self.sizes = [min(batch, total - start) for start in range(0, total, batch)]

    def on_predict_batch_end(self, batch, logs=None):
        self.events.append(done(self.sizes[batch]))


def directory(photos: list[Photo], given: Given) -> dict:
    """image_dataset_from_directory → predict → one npz of all features. Resizes bilinearly without antialias.

    On two cores, 8 images per batch were faster than its own default of 32.
    """
    batch = given.batch or 8
    model = vgg16(given.weights, given.threads)
    settings = {
        "batch": batch,
        "processes": 1,
        "threads": given.threads or os.cpu_count(),
        "onednn": True,
        "files": "one npz of all, after predict",
    }
    moments = Moments(batch, len(photos))
    if given.engine_only:
        pixels = preprocess_input(np.stack([decode(photo.path) for photo in photos]).astype(np.float32))
        dataset = tf.data.Dataset.from_tensor_slices(pixels).batch(batch).prefetch(2)
        model.predict(dataset, verbose=0, callbacks=[moments])
        return _engine(steady(moments.events, time.perf_counter()), settings)
    with tempfile.TemporaryDirectory() as folder:
        dataset, paths, labels = _dataset(photos, given, batch, Path(folder))
        ready = dataset.map(lambda x, _: preprocess_input(x), num_parallel_calls=tf.data.AUTOTUNE)
        ready = ready.prefetch(tf.data.AUTOTUNE)
        features = model.predict(ready, verbose=0, callbacks=[moments])
        np.savez(given.out / "features.npz", features=features, labels=labels, paths=paths)
    rate = steady(moments.events, make_durable(given.out))
    return rate | {"features_shape": features.shape[1:], "same_pixels": False, "settings": settings}


def null_directory(photos: list[Photo], given: Given) -> dict:
    """The same dataset with block means in a map, consumed batch by batch, with one npz per 256 images."""
    batch = given.batch or 32
    with tempfile.TemporaryDirectory() as folder:
        dataset, paths, labels = _dataset(photos, given, batch, Path(folder))
        means = dataset.map(lambda x, _: _block_means(x), num_parallel_calls=tf.data.AUTOTUNE)
        events: list[Done] = []
        parts: list[np.ndarray] = []
        written = 0
        for features in means.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
            events.append(done(len(features)))
            parts.append(features)
            rows = sum(map(len, parts))
            if rows >= SHARD or written + rows == len(photos):
                where = slice(written, written + rows)
                name = given.out / f"{written:06d}.npz"
                np.savez(name, features=np.concatenate(parts), labels=labels[where], paths=paths[where])
                written, parts = written + rows, []
    rate = steady(events, make_durable(given.out), warm_batches=2)
    settings = {"batch": batch, "processes": 1, "threads": "tf.data.AUTOTUNE", "files": "an npz for 256 images"}
    return rate | {"features_shape": FEATURES, "same_pixels": False, "settings": settings}


def _block_means(pixels: tf.Tensor) -> tf.Tensor:
    means = tf.nn.avg_pool2d(pixels, 32, 32, "VALID")
    return tf.reshape(tf.tile(means, [1, 1, 1, -(-CHANNELS // 3)])[..., :CHANNELS], [-1, CELLS, CELLS, CHANNELS])


def _dataset(photos: list[Photo], given: Given, batch: int, folder: Path) -> tuple[tf.data.Dataset, list[str], list]:
    """The dataset, and the photos' paths and labels in its order, class by class. A subset is a folder of links."""
    root = given.photos / "train" if (given.photos / "train").is_dir() else given.photos
    if given.count:
        for photo in photos:
            link = folder / Path(photo.path).relative_to(root)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(Path(photo.path).resolve())
    source = folder if given.count else root
    dataset = keras.utils.image_dataset_from_directory(
        source, batch_size=batch, shuffle=False, image_size=(SIZE, SIZE), verbose=False
    )
    paths = [str(root / Path(path).relative_to(source)) for path in dataset.file_paths]
    label_of = dict(photos)
    return dataset, paths, [label_of[path] for path in paths]


def _engine(rate: dict, settings: dict) -> dict:
    return {"engine_images_per_second": rate["steady_images_per_second"], "settings": settings}
