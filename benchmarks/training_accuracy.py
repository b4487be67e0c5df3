"""Is a head that trains from the stream as accurate as one that trains from memory? The last line is one JSON object.

    python benchmarks/training_accuracy.py --store STORE

`--store` holds real features of two classes, with a training and a validation split. A hash of their digest selects
some of the training images as a test split. Neither the training nor the choice of the best epoch uses it.

The first part compares losses. The head of one seed trains from the stream, and from an array in memory in the same
order; the loss of every step must be the same number. The second part compares, for each seed and batch size, the head
that a run keeps (vision/training/loop.py) with the same layers and statistics, trained from memory as Keras shuffles
it. Both keep the epoch with the lowest validation loss. The interval of the difference comes from a bootstrap over
seeds and images.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).parent
sys.path.insert(0, str(BENCHMARKS.parent))

from training_memory import say  # noqa: E402
from tutorial_generator import interval, is_right  # noqa: E402

from storage.classes import index_order  # noqa: E402
from storage.layout import Store  # noqa: E402
from storage.manifest.space import spaces  # noqa: E402
from storage.manifest.versions import latest_version  # noqa: E402
from storage.reading.samples import SampleTable, pin  # noqa: E402
from storage.reading.stream import FeatureStream  # noqa: E402
from storage.shards.shard import Shard  # noqa: E402
from vision.batches import dataset  # noqa: E402
from vision.training.feeds import TrainingData  # noqa: E402
from vision.training.head import HeadSpec  # noqa: E402
from vision.training.head_model import build_head, compile_update  # noqa: E402
from vision.training.loop import train  # noqa: E402
from vision.training.statistics import Statistics, feature_statistics  # noqa: E402

READING_BATCH = 256
COMPARED_EPOCHS = 2
SIDES = ("stream", "memory")

Arrays = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Splits:
    """The sample tables of a store. The test split is taken out of the training split."""

    store: Store
    train: SampleTable
    validation: SampleTable
    test: SampleTable

    def stream(self, table: SampleTable, batch_size: int = READING_BATCH, seed: int | None = None) -> FeatureStream:
        return FeatureStream(self.store, table, batch_size, seed, HeadSpec(table.classes).shuffle_memory_mb)

    def arrays(self, table: SampleTable) -> Arrays:
        """All features and labels of a split, in the order of its table."""
        features, labels = zip(*self.stream(table).batches(), strict=True)
        return np.concatenate(features), np.concatenate(labels).astype(np.int32)

    def training_data(self, batch_size: int, seed: int) -> TrainingData:
        """The data that workers/jobs/train.py passes to vision/training/loop.py."""
        stream = self.stream(self.train, batch_size, seed)
        return TrainingData(
            stream.kind.shape,
            np.dtype(stream.kind.dtype).name,
            stream,
            self.stream(self.train),
            self.stream(self.validation),
            self.stream(self.validation),
            stream.class_counts(),
        )


def splits_of(root: Path, folder: Path, test_fraction: float) -> Splits:
    (store,) = [space for space in spaces(root) if latest_version(space)]
    version = latest_version(store)
    assert version is not None
    classes = index_order(None, version.classes)
    assert len(classes) == 2, f"two classes are expected, {root} has {', '.join(classes)}"
    training, validation = (pin(store, version, split, classes, folder) for split in ("train", "validation"))
    digests = [Shard(store, ref).digests() for ref in training.shards]
    is_test = np.array([in_test(digests[shard][row], test_fraction) for shard, row, _ in training.samples.tolist()])
    parts = [SampleTable(training.samples[mask], training.shards, classes) for mask in (~is_test, is_test)]
    return Splits(store, parts[0], validation, parts[1])


def in_test(digest: bytes, fraction: float) -> bool:
    """Whether an image is in the test split. Equal images are on the same side, whatever else the store holds."""
    return hashlib.sha256(b"test" + digest).digest()[0] < 256 * fraction


def step_losses():
    """A callback that records the loss of each step. Keras itself reports the mean since the epoch began."""
    import keras

    class StepLosses(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.losses: list[float] = []

        def on_train_batch_begin(self, batch, logs=None):
            self.model.reset_metrics()

        def on_train_batch_end(self, batch, logs=None):
            self.losses.append(float(logs["loss"]))

    return StepLosses()


def built(spec: HeadSpec, shape: tuple[int, ...], channels: Statistics, seed: int):
    """A head with our compiled update, as vision/training/loop.py trains it."""
    head = build_head(spec, shape, channels, seed)
    head.optimizer.build(head.trainable_variables)
    compile_update(head)
    return head


def compare_losses(splits: Splits, memory: Arrays, channels: Statistics, spec: HeadSpec, seed: int) -> dict:
    """Compare the loss of every step of two epochs, from the stream and from memory in the stream's order."""
    stream = splits.stream(splits.train, spec.batch_size, seed)
    shape, dtype = stream.kind.shape, np.dtype(stream.kind.dtype).name
    losses = {}
    for name in SIDES:
        head, kept = built(spec, shape, channels, seed), step_losses()
        for epoch in range(COMPARED_EPOCHS):
            if name == "stream":
                batches = dataset(lambda epoch=epoch: stream.batches(epoch), shape, dtype, steps=stream.steps)
                arguments = {"x": batches}
            else:
                order = np.concatenate([stream.order.samples(epoch, w) for w in range(stream.order.num_windows)])
                arguments = {"x": memory[0][order], "y": memory[1][order], "batch_size": spec.batch_size}
            options = {"initial_epoch": epoch, "epochs": epoch + 1, "callbacks": [kept], "verbose": 0}
            head.fit(**arguments, **options, shuffle=False)
        losses[name] = np.array(kept.losses)
    assert len(losses["stream"]) == COMPARED_EPOCHS * stream.steps
    assert np.array_equal(losses["stream"], losses["memory"]), np.abs(losses["stream"] - losses["memory"]).max()
    return {
        "identical_steps": len(losses["stream"]),
        "first_loss": losses["stream"][0],
        "last_loss": losses["stream"][-1],
    }


def from_memory(spec: HeadSpec, memory: Arrays, validation: Arrays, channels: Statistics, seed: int):
    import keras

    head = built(spec, memory[0].shape[1:], channels, seed)
    head.fit(
        *memory,
        batch_size=spec.batch_size,
        epochs=spec.epochs,
        validation_data=validation,
        callbacks=[keras.callbacks.EarlyStopping("val_loss", patience=spec.epochs, restore_best_weights=True)],
        shuffle=True,
        verbose=0,
    )
    return head


def compare_heads(splits: Splits, arrays: dict[str, Arrays], channels: Statistics, spec: HeadSpec, seeds: list[int]):
    """Compare the heads of all seeds by their accuracy on the validation and test splits."""
    right: dict[str, dict[str, list[np.ndarray]]] = {side: {"validation": [], "test": []} for side in SIDES}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as logs:
            ours = train(spec, splits.training_data(spec.batch_size, seed), seed, Path(logs)).model
        heads = {"stream": ours, "memory": from_memory(spec, arrays["train"], arrays["validation"], channels, seed)}
        for side, head in heads.items():
            for split, found in right[side].items():
                found.append(is_right(head, arrays[split]))
        say(
            f"batch {spec.batch_size}, seed {seed}: { {s: [f[-1].mean() for f in r.values()] for s, r in right.items()} }"
        )
    return {split: figures(*(np.stack(right[side][split]) for side in SIDES)) for split in ("validation", "test")}


def figures(stream: np.ndarray, memory: np.ndarray) -> dict:
    """Figures from two (seeds, images) arrays that say whether a head was right."""
    return {
        "stream": stream.mean(axis=1).tolist(),
        "memory": memory.mean(axis=1).tolist(),
        "stream_mean": float(stream.mean()),
        "memory_mean": float(memory.mean()),
        "stream_minus_memory": float(stream.mean() - memory.mean()),
        "interval": interval(stream, memory),
    }


def report_of(given: argparse.Namespace, folder: Path) -> dict:
    splits = splits_of(given.store, folder, given.test_fraction)
    arrays = {name: splits.arrays(getattr(splits, name)) for name in ("train", "validation", "test")}
    channels = feature_statistics(features for features, _ in splits.stream(splits.train).batches())
    report: dict = {"images": {name: len(labels) for name, (_, labels) in arrays.items()}, "epochs": given.epochs}
    report["batch_sizes"] = []
    for size in given.batch_sizes:
        spec = HeadSpec(splits.train.classes, epochs=given.epochs, batch_size=size)
        losses = compare_losses(splits, arrays["train"], channels, spec, given.seeds[0])
        say(f"batch {size}: {losses}")
        found = compare_heads(splits, arrays, channels, spec, given.seeds)
        report["batch_sizes"].append({"batch_size": size, "losses": losses} | found)
    for split in ("validation", "test"):
        by_size = [found[split] for found in report["batch_sizes"]]
        report[split] = {f"{side}_mean": float(np.mean([found[f"{side}_mean"] for found in by_size])) for side in SIDES}
    return report | {"seeds": given.seeds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--test-fraction", type=float, default=0.2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = report_of(given, Path(folder))
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
