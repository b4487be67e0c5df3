"""What is augmentation worth on few photos, and what does it cost? The last line is one JSON object.

    python benchmarks/augmentation.py --photos FOLDER --weights vgg16_notop.weights.h5

The training photos are the first of each class of `train/`. A hash of their bytes halves those of `validation/`: one
half selects the epoch to keep, the other is the test split, which nothing else uses. The real command line extracts the
plain features and then the variants of two augmentations into one store; this is the one-time cost of variants. The
benchmark then trains the heads of all sides in turn, with the same options and seeds, in the same child process as a
run:

* `plain`: no augmentation;
* `variants_tutorial`, `variants_strong`: cached views, one of which each epoch takes;
* `images_tutorial`: the image stream, for the first seeds only, since each epoch goes through the network.

Differences to `plain` are paired by seed. Their t interval covers other seeds on the same photos. A second interval
comes from a bootstrap that resamples seeds and test photos. The benchmark also measures seconds per epoch, without
validation and without the first epoch, of trainings in turn, and fine-tunes the last block behind the plain head of the
first seed.
"""

import argparse
import csv
import hashlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

BENCHMARKS = Path(__file__).parent
sys.path.insert(0, str(BENCHMARKS.parent))

from training_accuracy import in_test  # noqa: E402
from tutorial_generator import command, interval, is_right, say  # noqa: E402

from flows.options.pipeline import PipelineOptions  # noqa: E402
from storage.heads.registry import model_file, read_head  # noqa: E402
from storage.manifest.versions import latest_version  # noqa: E402
from storage.reading.samples import pin  # noqa: E402
from storage.reading.stream import FeatureStream  # noqa: E402
from tasks.train_head import logs_of, run_training  # noqa: E402
from vision.training.head_model import load_head  # noqa: E402
from workers.jobs.records import HeadJob, Space, VersionRecord  # noqa: E402
from workers.jobs.spaces import version_record  # noqa: E402
from workers.runners.running import running  # noqa: E402

# F. Chollet, "Building powerful image classification models using very little data" (2016), without its rescale, which
# would make another feature space.
TUTORIAL = {"shear_range": 0.2, "zoom_range": 0.2, "horizontal_flip": True}
STRONG = {
    "rotation_range": 20,
    "width_shift_range": 0.1,
    "height_shift_range": 0.1,
    "zoom_range": 0.2,
    "horizontal_flip": True,
}
FIRST_TIMED_SEED = 1000  # new seeds, since a run does not train an existing head again
FINE_TUNED = "block5"
# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
SPLITS = ("validation", "test")


def split_table(photos: Path, per_class: int, held_out: int | None, file: Path) -> dict[str, int]:
    """Write the labels table of the selected photos, and return the size of each split.

    A photo of `validation/` is left out if it has the bytes of a training photo.
    """
    trained_on, rows = set(), []
    for folder in sorted((photos / "train").iterdir()):
        for path in sorted(folder.iterdir())[:per_class]:
            trained_on.add(hashlib.sha256(path.read_bytes()).digest())
            rows.append((path.relative_to(photos), folder.name, "train"))
    for folder in sorted((photos / "validation").iterdir()):
        for path in sorted(folder.iterdir())[:held_out]:
            digest = hashlib.sha256(path.read_bytes()).digest()
            if digest not in trained_on:
                split = "test" if in_test(digest, 0.5) else "validation"
                rows.append((path.relative_to(photos), folder.name, split))
    with file.open("w", newline="") as target:
        csv.writer(target).writerows([("path", "class", "split"), *rows])
    return {split: sum(row[2] == split for row in rows) for split in ("train", *SPLITS)}


@dataclass(frozen=True)
class Trainings:
    """Trainings on one version of a store. common: options of all sides; sides: the options of each side."""

    common: dict[str, Any]
    sides: dict[str, dict[str, Any]]
    space: Space
    version: VersionRecord

    def options(self, side: str, seed: int, **more: Any) -> PipelineOptions:
        return PipelineOptions(**{"head": "mlp"} | self.common | self.sides[side] | {"seed": seed} | more)

    def head(self, side: str, seed: int, **more: Any) -> dict:
        """The content of head.json for the head of a side, and its `name`. No head is compared or promoted."""
        job = self.options(side, seed, **more).head_jobs(self.space, self.version)[0]
        return self._trained(replace(job, promote="never"))

    def fine_tuned(self, side: str, seed: int, epochs: int) -> dict:
        """The content of head.json for the network that is fine-tuned behind such a head, on augmented images."""
        own = {
            "augment": TUTORIAL,
            "fine_tune": FINE_TUNED,
            "fine_tune_epochs": epochs,
            "fine_tune_learning_rate": 1e-5,
        }
        options = self.options(side, seed, **own)
        job = options.fine_tune_job(self.space, self.version, options.head_jobs(self.space, self.version)[0])
        assert job is not None
        return self._trained(job)

    def _trained(self, job: HeadJob) -> dict:
        result = run_training(job, None)
        assert result.is_new, f"head {result.name} was trained before"
        return read_head(self.space.store, result.name) | {"name": result.name}


def sides_of(variants: int) -> dict[str, dict[str, Any]]:
    return {
        "plain": {},
        "variants_tutorial": {"augment": TUTORIAL, "variants": variants},
        "variants_strong": {"augment": STRONG, "variants": variants},
        "images_tutorial": {"augment": TUTORIAL, "train_on": "images"},
    }


def extract(common: dict[str, Any], sides: dict[str, dict[str, Any]], folder: Path) -> dict[str, dict]:
    """Extract plain features and then the variants of each side by the command line. Returns the cost of each run."""
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environment |= {"PREFECT_HOME": str(folder / "prefect")}
    where = [f"--{name}={common[name]}" for name in ("images", "store", "labels", "weights")]
    costs = {}
    for side, own in sides.items():
        if "train_on" in own:
            continue
        flags = [f"--{name}={value if name == 'variants' else json.dumps(value)}" for name, value in own.items()]
        output = command(environment, "flows/pipeline.py", *where, *flags, "--extract-only")
        record = json.loads(output.splitlines()[-1])
        costs[side] = {key: record[key] for key in ("extracted_views", "extract_seconds", "elapsed_seconds", "engine")}
        say(f"extracted for {side}: {costs[side]}")
    return costs


def trainings_on(common: dict[str, Any], sides: dict[str, dict[str, Any]]) -> Trainings:
    space = PipelineOptions(**common).space()
    version = latest_version(space.store)
    assert version is not None
    return Trainings(common, sides, space, version_record(version))


def accuracy_of(record: dict, split: str) -> float:
    return record["metrics"]["val_accuracy"] if split == "validation" else record["test"]["accuracy"]


def train_sides(trainings: Trainings, seeds: Sequence[int], image_seeds: int) -> dict[str, list[dict]]:
    """Train the heads of each side, one per seed. The image stream uses only the first `image_seeds` seeds."""
    heads: dict[str, list[dict]] = {side: [] for side in trainings.sides}
    for number, seed in enumerate(seeds):
        for side, own in trainings.sides.items():
            if number < image_seeds or "train_on" not in own:
                heads[side].append(trainings.head(side, seed))
        say(
            f"seed {seed}: { {s: [round(accuracy_of(r[-1], at), 4) for at in SPLITS] for s, r in heads.items() if len(r) > number} }"
        )
    return heads


def right_on_test(trainings: Trainings, heads: dict[str, list[dict]], folder: Path) -> dict[str, np.ndarray]:
    """For each side (seeds, images): whether a head predicts the class of each test photo."""
    store, version = trainings.space.store, latest_version(trainings.space.store)
    assert version is not None
    table = pin(store, version, "test", tuple(trainings.version.class_names), folder)
    features, labels = map(np.concatenate, zip(*FeatureStream(store, table, 64, None, 8.0).batches(), strict=True))
    right = {}
    for side, records in heads.items():
        models = [load_head(str(model_file(store, record["name"]))) for record in records]
        right[side] = np.stack([is_right(model, (features, labels)) for model in models])
        told = [accuracy_of(record, "test") for record in records]
        assert np.allclose(right[side].mean(axis=1), told, atol=1e-6), (side, told)
    return right


def spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def paired(values: Sequence[float], others: Sequence[float]) -> dict:
    """The mean difference over paired seeds, and its 95 % t interval; None for a single seed."""
    differences = [one - other for one, other in zip(values, others, strict=False)]
    mean, deviation, count = statistics.fmean(differences), spread(differences), len(differences)
    half = None if deviation is None else T_QUANTILES[count - 2] * deviation / sqrt(count)
    return {
        "difference": round(mean, 5),
        "t_interval": None if half is None else [round(mean - half, 5), round(mean + half, 5)],
    }


def accuracies(heads: dict[str, list[dict]], right: dict[str, np.ndarray]) -> dict[str, dict]:
    found: dict[str, dict] = {}
    for side, records in heads.items():
        found[side] = {}
        for split in SPLITS:
            values = [accuracy_of(record, split) for record in records]
            own = {"accuracies": values, "mean": statistics.fmean(values), "spread": spread(values)}
            if side != "plain":
                own["minus_plain"] = paired(values, [accuracy_of(record, split) for record in heads["plain"]])
            found[side][split] = own
        if side != "plain":
            other = right["plain"][: len(records)]
            found[side]["test"]["minus_plain"]["bootstrap_interval"] = interval(right[side], other)
        found[side]["val_loss"] = statistics.fmean(record["metrics"]["val_loss"] for record in records)
        found[side]["test_loss"] = statistics.fmean(record["test"]["loss"] for record in records)
    return found


def epoch_seconds(trainings: Trainings, rounds: int, epochs: int) -> dict:
    """Seconds per epoch of plain features, variants and the image stream, in an order that alternates each round."""
    sides = ["plain", "variants_tutorial", "images_tutorial"]
    found: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 else reversed(sides):
            record = trainings.head(side, FIRST_TIMED_SEED + number, epochs=epochs)
            found[side].append(statistics.median(record["epoch_seconds"][1:]))
        say(f"round {number}, seconds an epoch: { {side: seconds[-1] for side, seconds in found.items()} }")
    pairs = [("variants_tutorial", "plain"), ("images_tutorial", "plain"), ("images_tutorial", "variants_tutorial")]
    return {
        "rounds": found,
        "median": {side: statistics.median(seconds) for side, seconds in found.items()},
        "ratio": {f"{one}_to_{other}": median_ratio(found[one], found[other]) for one, other in pairs},
    }


def median_ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return round(statistics.median(one / other for one, other in zip(seconds, others, strict=True)), 3)


def tuning(trainings: Trainings, base: dict, epochs: int) -> dict:
    """The result of fine-tuning behind a plain head."""
    record = trainings.fine_tuned("plain", base["seed"], epochs)
    assert record["base"] == base["name"]
    return {
        "block": FINE_TUNED,
        "seed": base["seed"],
        "before": {split: accuracy_of(base, split) for split in SPLITS} | {"val_loss": base["metrics"]["val_loss"]},
        "after": {split: accuracy_of(record, split) for split in SPLITS} | {"val_loss": record["metrics"]["val_loss"]},
        "test_loss": [base["test"]["loss"], record["test"]["loss"]],
        "start": record["start"],
        "history": record["history"],
        "epoch_seconds": record["epoch_seconds"],
        "seconds": record["metrics"]["train_seconds"],
    }


def print_table(report: dict) -> None:
    say(f"{'':18} {'validation':>16} {'test':>16} {'test - plain, points':>28} {'s/epoch':>9}")
    for side, found in report["accuracy"].items():
        means = [f"{found[at]['mean']:.4f} ± {found[at]['spread'] or 0:.4f}" for at in SPLITS]
        difference = found["test"].get("minus_plain")
        points = f"{100 * difference['difference']:+.2f}" if difference else ""
        if difference and difference.get("t_interval"):
            low, high = difference["t_interval"]
            points += f" ({100 * low:+.2f} to {100 * high:+.2f})"
        seconds = report["epoch_seconds"]["median"].get(side)
        say(f"{side:18} {means[0]:>16} {means[1]:>16} {points:>28} {'' if seconds is None else f'{seconds:.3f}':>9}")
    tuned = report["fine_tuning"]
    change = ", ".join(f"{split} {tuned['before'][split]:.4f} to {tuned['after'][split]:.4f}" for split in SPLITS)
    say(f"{FINE_TUNED} fine-tuned: {change}; {statistics.median(tuned['epoch_seconds']):.1f} s an epoch")
    say(f"variants have paid after {report['paid_after_epochs']} epochs of the image stream")


def report_of(given: argparse.Namespace, folder: Path) -> dict:
    labels, sides = folder / "labels.csv", sides_of(given.variants)
    images = split_table(given.photos, given.per_class, given.held_out, labels)
    say(f"photos: {images}")
    common = {name: str(getattr(given, name)) for name in ("weights",)}
    common |= {"images": str(given.photos), "labels": str(labels), "store": str(folder / "store")}
    training = {"epochs": given.epochs, "batch_size": given.batch_size}
    costs = extract(common, sides, folder)
    trainings = trainings_on(common | training, sides)
    with running(logs_of(trainings.options("plain", 0).head_jobs(trainings.space, trainings.version)[0])):
        seconds = epoch_seconds(trainings, given.rounds, given.timed_epochs)
        heads = train_sides(trainings, given.seeds, given.image_seeds)
        tuned = tuning(trainings, heads["plain"][0], given.fine_tune_epochs)
    saved = seconds["median"]["images_tutorial"] - seconds["median"]["variants_tutorial"]
    report = {
        "images": images,
        "variants": given.variants,
        "seeds": given.seeds,
        "image_seeds": given.image_seeds,
        **training,
        "extraction": costs,
        "epoch_seconds": seconds,
        "paid_after_epochs": round(costs["variants_tutorial"]["extract_seconds"] / saved, 2),
        "accuracy": accuracies(heads, right_on_test(trainings, heads, folder)),
        "fine_tuning": tuned,
    }
    print_table(report)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=os.environ.get("PHOTOS"), help="train/ and validation/ folders")
    parser.add_argument("--weights", type=Path, default=os.environ.get("VGG16_WEIGHTS"))
    parser.add_argument("--per-class", type=int, default=100, help="photos of a class that are trained on")
    parser.add_argument("--held-out", type=int, help="photos of a class of validation/; all if not given")
    parser.add_argument("--variants", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--image-seeds", type=int, default=2, help="of these for the image stream")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=16, help="the tutorial's")
    parser.add_argument("--rounds", type=int, default=3, help="of the seconds an epoch")
    parser.add_argument(
        "--timed-epochs", type=int, default=3, help="of each of its trainings; the first does not count"
    )
    parser.add_argument("--fine-tune-epochs", type=int, default=3)
    given = parser.parse_args()
    if not given.photos or not given.weights:
        parser.error("--photos and --weights (or PHOTOS and VGG16_WEIGHTS) say where the photos and the weights are")
    if not 2 <= given.seeds <= len(T_QUANTILES) + 1 or not 1 <= given.image_seeds <= given.seeds:
        parser.error(
            f"--seeds: from 2 to {len(T_QUANTILES) + 1}, and at least as many as --image-seeds, which is 1 or more"
        )
    if given.timed_epochs < 2:
        parser.error("--timed-epochs: the first does not count, so at least 2")
    given.photos, given.weights = given.photos.resolve(), given.weights.resolve()
    given.seeds = list(range(given.seeds))
    with tempfile.TemporaryDirectory() as name:
        report = report_of(given, Path(name))
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
