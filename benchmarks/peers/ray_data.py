"""The peer on Ray Data: read_binary_files → decode → a Keras actor → write_parquet, on this machine only."""

import argparse
import io
import os
import shutil
import tempfile
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import ray
import ray.data

from peers.clock import Done, done, make_durable, steady
from peers.photos import FEATURES, SIZE, Photo, block_means, decode

TASK_CPUS = 0.25  # logical CPUs: reading and writing run beside the actors, which use two cores


class Backbone:
    """VGG16 as one TensorFlow function in an actor. Notes when each batch is done."""

    def __init__(self, weights: str, threads: int, notes: str):
        import keras
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        model = keras.applications.VGG16(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
        model.load_weights(weights)
        prepare = keras.applications.vgg16.preprocess_input
        pixels = tf.TensorSpec((None, SIZE, SIZE, 3), tf.uint8)
        self.run = tf.function(lambda x: model(prepare(tf.cast(x, tf.float32)), training=False), [pixels])
        self.notes = notes

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        features = self.run(batch["image"]).numpy()
        note(self.notes, len(features))
        return {"path": batch["path"], "features": features}

    def load(self, paths: list[str]) -> None:
        self.pixels = np.stack([decode(path) for path in paths])

    def infer(self, batch: int) -> list[Done]:
        events = []
        for start in range(0, len(self.pixels), batch):
            events.append(done(len(self.run(self.pixels[start : start + batch]).numpy())))
        return events


def decode_batch(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"path": batch["path"], "image": np.stack([decode(io.BytesIO(data)) for data in batch["bytes"]])}


def null_backbone(batch: dict[str, np.ndarray], notes: str) -> dict[str, np.ndarray]:
    features = block_means(batch["image"])
    note(notes, len(features))
    return {"path": batch["path"], "features": features}


def note(folder: str, images: int) -> None:
    moment = done(images)
    with open(Path(folder) / str(moment.worker), "a") as file:
        file.write(f"{moment.moment} {moment.images}\n")


def ray_data(photos: list[Photo], given: argparse.Namespace) -> dict:
    """Actors hold the model, and tasks beside them read and write. The paths contain the labels."""
    batch, actors, threads = given.batch or 16, given.processes or 1, given.threads or 2
    settings = {
        "batch": batch,
        "processes": actors,
        "threads": threads,
        "onednn": True,
        "files": "a Parquet file for a block",
    }
    with _ray() as notes:
        arguments = (str(given.weights.resolve()), threads, notes)
        if given.engine_only:
            return _engine(photos, batch, actors, arguments, settings)
        mapped = _read(photos, -(-len(photos) // batch), batch, TASK_CPUS).map_batches(
            Backbone,
            fn_constructor_args=arguments,
            batch_size=batch,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=1.5 / actors,
        )
        return _write(mapped, given, notes, actors, settings, TASK_CPUS)


def null_ray_data(photos: list[Photo], given: argparse.Namespace) -> dict:
    """The same without actors. Stateless steps are tasks, and Ray Data fuses all tasks of one CPU into one."""
    batch = given.batch or 32
    settings = {"batch": batch, "processes": 2, "threads": 1, "files": "a Parquet file for a block"}
    with _ray() as notes:
        source = _read(photos, -(-len(photos) // 256), batch, num_cpus=1)
        mapped = source.map_batches(null_backbone, fn_kwargs={"notes": notes}, batch_size=batch, num_cpus=1)
        return _write(mapped, given, notes, 2, settings, num_cpus=1)


def _read(photos: list[Photo], blocks: int, batch: int, num_cpus: float) -> ray.data.Dataset:
    """Read and `decode` files in one task. read_images yields the same pixels, but is an eighth slower with --null."""
    files = ray.data.read_binary_files(
        [photo.path for photo in photos],
        include_paths=True,
        override_num_blocks=blocks,
        ray_remote_args={"num_cpus": num_cpus},
    )
    return files.map_batches(decode_batch, batch_size=batch, num_cpus=num_cpus)


def _write(
    mapped: ray.data.Dataset, given: argparse.Namespace, notes: str, workers: int, settings: dict, num_cpus: float
) -> dict:
    # Features are floats that seldom repeat, so files without a dictionary are a fifth smaller.
    writers = {"num_cpus": num_cpus}
    mapped.write_parquet(str(given.out.resolve()), ray_remote_args=writers, use_dictionary=False)
    ended = make_durable(given.out)
    events = []
    for path in Path(notes).iterdir():
        for line in path.read_text().splitlines():
            moment, images = line.split()
            events.append(Done(float(moment), int(path.name), int(images)))
    rate = steady(events, ended, workers)
    return rate | {"features_shape": FEATURES, "same_pixels": True, "settings": settings}


def _engine(photos: list[Photo], batch: int, actors: int, arguments: tuple, settings: dict) -> dict:
    """Call the same actors without Ray Data, on pixels that they hold."""
    remote = ray.remote(num_cpus=1)(Backbone)
    workers = [remote.remote(*arguments) for _ in range(actors)]
    ray.get([w.load.remote([p.path for p in photos[i::actors]]) for i, w in enumerate(workers)])
    events = [event for found in ray.get([w.infer.remote(batch) for w in workers]) for event in found]
    rate = steady([Done(*event) for event in events], max(event[0] for event in events), actors)
    return {"engine_images_per_second": rate["steady_images_per_second"], "settings": settings}


class _ray:  # noqa: N801
    """A Ray instance with two CPUs for one run, without dashboard, in its own folder. Yields a folder for notes."""

    def __enter__(self) -> str:
        self.folder = tempfile.mkdtemp(prefix="ray-")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=self.folder)
        ray.data.DataContext.get_current().enable_progress_bars = False
        notes = Path(self.folder) / "notes"
        notes.mkdir()
        return str(notes)

    def __exit__(self, *_) -> None:
        ray.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)
