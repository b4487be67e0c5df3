"""When does the tutorial's head end up predicting one class for ever? The last line is one JSON object.

    python benchmarks/dead_sigmoid.py --store photos-store --steps 30

Trains the head of the 2018 tutorial (Dense 256, dropout, one sigmoid, rmsprop) on the newest version of a store, as
today's Keras does and as Keras did in 2018. The Keras of 2018 differs in two ways, each of which can be chosen alone:

loss: it clipped the probability to [1e-7, 1 - 1e-7] and converted it back to log-odds. An image beyond that range has
    no gradient, whether it is right or wrong. Today's Keras takes the log-odds from before the sigmoid.
rmsprop: it added epsilon (1e-7) to the root of the mean square; today's Keras adds it under the root. 1e-14 under the
    root is equivalent, except for gradients of that size.

A training is dead if it ends by predicting the same class for every validation image. Asserts that no training with
today's Keras is dead.
"""

import argparse
import json
import os
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from storage.backend.paths import place
from storage.layout import Store
from storage.manifest.select import chosen_version, one_space
from storage.manifest.versions import Version
from storage.reading.samples import sample_rows
from storage.shards.shard import Shard
from vision.training.statistics import feature_statistics

EPSILON = 1e-7
YEARS = {
    "today": {"is_cut": False, "epsilon": EPSILON},
    "loss of 2018": {"is_cut": True, "epsilon": EPSILON},
    "rmsprop of 2018": {"is_cut": False, "epsilon": EPSILON**2},
    "2018": {"is_cut": True, "epsilon": EPSILON**2},
}


def read_split(store: Store, version: Version, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a whole split: (n, ...) float32 features and (n,) float32 labels."""
    classes = tuple(sorted(version.classes[split]))
    shards, samples = sample_rows(store, version, split, classes)
    arrays = {index: Shard(store, shards[index]).read() for index in np.unique(samples["shard"])}
    features = np.stack([arrays[sample["shard"]][sample["row"]] for sample in samples]).astype(np.float32)
    return features, samples["class"].astype(np.float32)


def standardised(training: np.ndarray, validation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    statistics = feature_statistics([training])
    mean, deviation = (x.astype(np.float32) for x in (statistics.mean, np.sqrt(statistics.variance)))
    return (training - mean) / deviation, (validation - mean) / deviation


def cut_crossentropy(labels, probabilities):
    """Binary cross-entropy as Keras 2 computed it from a probability."""
    import tensorflow as tf

    cut = tf.clip_by_value(probabilities, EPSILON, 1 - EPSILON)
    return tf.nn.sigmoid_cross_entropy_with_logits(labels, tf.math.log(cut / (1 - cut)))


def train(
    training, validation, batch_size: int, seed: int, epochs: int, rate: float, is_cut: bool, epsilon: float
) -> dict:
    """Train a head. Returns the losses and accuracy of each epoch, and what the head predicts at the end."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    hidden = layers.Dense(256, activation="relu")
    head = keras.Sequential(
        [keras.Input(training[0].shape[1:]), layers.Flatten(), hidden, layers.Dropout(0.5), layers.Dense(1, "sigmoid")]
    )
    optimizer = keras.optimizers.RMSprop(rate, epsilon=epsilon)
    head.compile(optimizer, cut_crossentropy if is_cut else "binary_crossentropy", metrics=["accuracy"])
    history = head.fit(
        *training, batch_size=batch_size, epochs=epochs, validation_data=validation, shuffle=True, verbose=0
    ).history
    answers = head.predict(validation[0], batch_size=200, verbose=0)[:, 0]
    active = keras.Model(head.inputs, hidden.output).predict(validation[0], batch_size=200, verbose=0) > 0
    return {
        "loss": history["loss"],
        "val_loss": history["val_loss"],
        "val_accuracy": history["val_accuracy"],
        "is_dead": bool((answers > 0.5).all() or (answers <= 0.5).all()),
        "cut": float(np.mean((answers < EPSILON) | (answers > 1 - EPSILON))),
        "dead_units": int((~active.any(axis=0)).sum()),
    }


def compare(splits: dict[str, list], given: argparse.Namespace) -> list[dict]:
    """Run every training. Returns their records, and prints each on standard error when it ends."""
    runs = []
    for features, year, size, seed in product(given.features, given.years, given.batch_sizes, given.seeds):
        began = time.perf_counter()
        (rows, labels), validation = splits[features]
        pick = np.random.default_rng(seed).permutation(len(labels))[: size * given.steps if given.steps else None]
        training = rows[pick], labels[pick]
        found = train(training, validation, size, seed, given.epochs, given.learning_rate, **YEARS[year])
        runs.append({"features": features, "year": year, "batch_size": size, "seed": seed, **found})
        seconds = round(time.perf_counter() - began, 1)
        print(json.dumps({**runs[-1], "seconds": seconds}), file=sys.stderr, flush=True)
    return runs


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=place, required=True)
    parser.add_argument("--space", default="", help="first digits of a feature space")
    parser.add_argument("--batch-sizes", type=numbers, default=[8, 32, 128])
    parser.add_argument("--seeds", type=numbers, default=list(range(10)))
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--steps", type=int, help="train on so many random batches alone, each epoch the same")
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument("--years", nargs="+", choices=YEARS, default=list(YEARS))
    parser.add_argument("--features", nargs="+", choices=("raw", "standardised"), default=["raw"])
    given = parser.parse_args()
    store = one_space(given.store, given.space)
    version = chosen_version(store, None)
    raw = [read_split(store, version, split) for split in ("train", "validation")]
    splits = {"raw": raw}
    if "standardised" in given.features:
        (training, labels), (validation, truth) = raw
        training, validation = standardised(training, validation)
        splits["standardised"] = [(training, labels), (validation, truth)]
    runs = compare(splits, given)
    dead: dict[str, list[int]] = {}
    for run in runs:
        counts = dead.setdefault(f"{run['features']}, {run['year']}, batch {run['batch_size']}", [0, 0])
        counts[0] += run["is_dead"]
        counts[1] += 1
    print(json.dumps({"learning_rate": given.learning_rate, "dead_of": dead, "runs": runs}))
    assert not any(run["is_dead"] for run in runs if run["year"] == "today"), "a head is dead with today's loss"


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
