"""Does the tutorial's generator train on exported files as well as our stream? The last line is one JSON object.

    python benchmarks/tutorial_generator.py --photos FOLDER --weights vgg16_notop.weights.h5

Runs the pipeline with each seed, exports the store with `python -m storage export`, and trains the head of the 2018
tutorial on the exported files as the tutorial did, with an endless generator that draws files at random. This is
compared with our training of the same layers on raw features (`--no-standardize`), with the same number of epochs,
batch size and validation images. Both sides keep the epoch with the lowest validation loss. Our defaults are trained
too, for information.

Criterion: a bootstrap over seeds and validation images gives the 95 % interval of the difference of the mean
accuracies. The interval must contain zero (no difference is seen) and stay within LARGEST_DIFFERENCE (a difference
would be seen).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).parents[1]
BATCH_SIZE = 128  # the pipeline's default, passed explicitly all the same
LARGEST_DIFFERENCE = 0.03
DRAWS = 10_000
OURS = {"ours": ["--no-standardize"], "ours_by_default": []}


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def command(environment: dict[str, str], *arguments: object) -> str:
    """Run a command of the project as a user does, and return its standard output."""
    line = [sys.executable, *map(str, arguments)]
    done = subprocess.run(line, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"status {done.returncode}:\n{done.stderr[-3000:]}"
    return done.stdout


def random_batches(folder: Path, batch_size: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What older code feeds to Keras: endless batches of files drawn at random with replacement."""
    paths = sorted(folder.glob("*.npz"))
    draw = np.random.default_rng(seed)
    while True:
        features, labels = [], []
        for index in draw.integers(len(paths), size=batch_size):
            with np.load(paths[index]) as file:
                features.append(file["features"])
                labels.append(file["label"])
        yield np.stack(features), np.array(labels)


def read_all(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read every file of a folder once. Asserts that the label in each name equals the one inside."""
    features, labels = [], []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            features.append(file["features"])
            labels.append(file["label"])
        assert path.stem.rpartition("_")[2] == str(labels[-1]), path
    return np.stack(features), np.array(labels)


def tutorial_head(shape: tuple[int, ...], seed: int):
    """The tutorial's layers and optimizer, with Keras' defaults where the tutorial sets nothing."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    head = keras.Sequential(
        [
            keras.Input(shape),
            layers.Flatten(),
            layers.Dense(256, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    head.compile(optimizer="rmsprop", loss="binary_crossentropy", metrics=["accuracy"])
    return head


def train_as_the_tutorial(exported: Path, validation: tuple[np.ndarray, np.ndarray], epochs: int, seed: int) -> dict:
    import keras

    num_images = len(list((exported / "train").glob("*.npz")))
    batch_size = min(BATCH_SIZE, num_images)
    steps = num_images // batch_size
    head = tutorial_head(validation[0].shape[1:], seed)
    began = time.perf_counter()
    history = head.fit(
        random_batches(exported / "train", batch_size, seed),
        steps_per_epoch=steps,
        epochs=epochs,
        validation_data=validation,
        callbacks=[keras.callbacks.EarlyStopping("val_loss", patience=epochs, restore_best_weights=True)],
        shuffle=False,  # the generator draws at random
        verbose=0,
    ).history
    seconds = time.perf_counter() - began
    assert len(history["loss"]) == epochs
    samples_per_second = steps * batch_size * epochs / seconds
    return {"is_right": is_right(head, validation), "samples_per_second": samples_per_second}


def is_right(head, validation: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(images,) whether the head predicts the class of each validation image."""
    scores = np.asarray(head(validation[0], training=False))
    return (scores[:, 0] > 0.5) == validation[1]


def train_ours(run, store: Path, validation: tuple[np.ndarray, np.ndarray], seed: int, options: list[str]) -> dict:
    """Run the pipeline, and evaluate its head on the exported validation images."""
    import keras

    record = run("--seed", seed, *options)
    right = is_right(keras.saving.load_model(store / "heads" / record["head"] / "head.keras"), validation)
    assert abs(right.mean() - record["val_accuracy"]) < 1e-4, (right.mean(), record["val_accuracy"])
    return {"is_right": right, "samples_per_second": record["train_samples_per_second"]}


def interval(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean accuracy of `one` minus that of `other`, both (seeds, images) with equal images."""
    draw = np.random.default_rng(0)
    differences = []
    for _ in range(DRAWS):
        images = draw.integers(one.shape[1], size=one.shape[1])
        means = [side[draw.integers(len(side), size=len(side))][:, images].mean() for side in (one, other)]
        differences.append(means[0] - means[1])
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)


def figures(runs: list[dict]) -> dict:
    accuracies = [float(run["is_right"].mean()) for run in runs]
    return {
        "val_accuracy": accuracies,
        "mean": float(np.mean(accuracies)),
        "spread": float(np.std(accuracies, ddof=1)),
        "samples_per_second": round(float(np.median([run["samples_per_second"] for run in runs]))),
    }


def report_of(photos: Path, weights: Path, store: Path, folder: Path, epochs: int, seeds: list[int]) -> dict:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environment |= {"PREFECT_HOME": str(folder / "prefect")}
    where = ["--images", photos, "--store", store, "--weights", weights]
    training = ["--head", "mlp", "--epochs", epochs, "--batch-size", BATCH_SIZE]

    def run(*options: object) -> dict:
        return json.loads(command(environment, PROJECT / "flows" / "pipeline.py", *where, *options).splitlines()[-1])

    say("extracting what is new")
    first = run("--extract-only")
    exported = folder / "exported"
    say("exporting")
    began = time.perf_counter()
    export = ["-m", "storage", "export", "--format", "npz", "--store", store, "--space", first["fingerprint"]]
    say(f"  {command(environment, *export, '--out', exported).strip()}")
    export_seconds = time.perf_counter() - began
    validation = read_all(exported / "validation")
    sides: dict[str, list[dict]] = {"tutorial": [], **{name: [] for name in OURS}}
    for seed in seeds:
        sides["tutorial"].append(train_as_the_tutorial(exported, validation, epochs, seed))
        for name, options in OURS.items():
            sides[name].append(train_ours(lambda *more: run(*training, *more), store, validation, seed, options))
        say(f"seed {seed}: { ({name: float(runs[-1]['is_right'].mean()) for name, runs in sides.items()}) }")
    right = {name: np.stack([run["is_right"] for run in runs]) for name, runs in sides.items()}
    sizes = {split: len(list((exported / split).glob("*.npz"))) for split in ("train", "validation")}
    assert sum(sizes.values()) == first["images"], (sizes, first["images"])
    return {
        **sizes,
        "epochs": epochs,
        "seeds": seeds,
        "export_seconds": export_seconds,
        "exported_bytes_an_image": sum(path.stat().st_size for path in exported.glob("*/*")) / first["images"],
        **{name: figures(runs) for name, runs in sides.items()},
        **{
            f"{name}_minus_tutorial": {
                "difference": float(right[name].mean() - right["tutorial"].mean()),
                "interval": interval(right[name], right["tutorial"]),
            }
            for name in OURS
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=os.environ.get("PHOTOS"), help="train/ and validation/ folders")
    parser.add_argument("--weights", type=Path, default=os.environ.get("VGG16_WEIGHTS"))
    parser.add_argument("--store", type=Path, help="a store to go on with, and to keep")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    given = parser.parse_args()
    if not given.photos or not given.weights:
        parser.error("--photos and --weights (or PHOTOS and VGG16_WEIGHTS) say where the photos and the weights are")
    if len(given.seeds) < 3:
        parser.error("--seeds: a spread needs at least three")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = (given.store or folder / "store").resolve()
        report = report_of(given.photos.resolve(), given.weights.resolve(), store, folder, given.epochs, given.seeds)
    print(json.dumps(report))
    low, high = report["ours_minus_tutorial"]["interval"]
    assert low <= 0 <= high, f"the accuracies differ: {low:.4f} to {high:.4f}"
    assert max(-low, high) <= LARGEST_DIFFERENCE, f"too few seeds or images to tell: {low:.4f} to {high:.4f}"


if __name__ == "__main__":
    main()
