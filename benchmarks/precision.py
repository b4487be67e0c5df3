"""What bfloat16 and int8 features cost in accuracy and save in time. The last line is one JSON object.

    python benchmarks/precision.py --images PHOTOS --weights FILE

`--images` has the folders `train` and `validation`, each with one folder per class, two classes. Rates: one process with
one thread per engine, a batch each in turn; their ratios hold on a busy machine too, their absolute values do not. The
distance is that of the validation images' features to float32's. Accuracy: for each seed the tutorial's head and a linear
one, trained from memory on the features of each precision with equal initial weights and order; no epoch is chosen. The
interval of the paired difference to float32 comes from a bootstrap over seeds and images.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).parent
sys.path.insert(0, str(BENCHMARKS.parent))

from training_memory import say  # noqa: E402

from vision.backbones.weights import weights_digest  # noqa: E402
from vision.pixels.decode import decode  # noqa: E402
from vision.specs import BACKBONES, FeatureSpec  # noqa: E402

WAYS = {
    "mnn float32": ("mnn", "float32"),
    "openvino float32": ("openvino", "float32"),
    "openvino bfloat16": ("openvino", "bfloat16"),
    "openvino int8": ("openvino", "int8"),
}
# The precisions whose features are compared, by the engine that computes them fastest.
COMPARED = ("mnn float32", "openvino bfloat16", "openvino int8")
KINDS = ("mlp", "linear")
DRAWS = 2_000

Split = tuple[np.ndarray, np.ndarray]  # pixels, labels


def read_split(folder: Path, per_class: int | None, size: int) -> Split:
    pixels, labels = [], []
    for label, one_class in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        for file in sorted(one_class.iterdir())[:per_class]:
            pixels.append(decode(file.read_bytes(), size))
            labels.append(label)
    return np.stack(pixels), np.array(labels)


def serve(way: str, spec: FeatureSpec, weights: str, requests, answers) -> None:
    """Compute batches until None comes, each with the seconds it took."""
    from vision.engines import load_engine

    engine = load_engine(WAYS[way][0], spec, weights, 1)
    answers.put((engine.name, engine.batch_size))
    while (pixels := requests.get()) is not None:
        began = time.perf_counter()
        features = engine.features(pixels)
        answers.put((features.astype(np.float16), time.perf_counter() - began))


class Process:
    """One engine in a process of its own."""

    def __init__(self, way: str, spec: FeatureSpec, weights: str):
        context = multiprocessing.get_context("spawn")
        self._requests, self._answers = context.Queue(), context.Queue()
        arguments = (way, spec, weights, self._requests, self._answers)
        self._process = context.Process(target=serve, args=arguments)
        self._process.start()
        self.name, self.batch_size = self._answers.get()

    def features(self, pixels: np.ndarray) -> tuple[np.ndarray, float]:
        self._requests.put(pixels)
        return self._answers.get()

    def close(self) -> None:
        self._requests.put(None)
        self._process.join()


def rates_of(processes: dict[str, Process], pixels: np.ndarray, rounds: int) -> dict:
    """Images per second, and the median over rounds of each rate divided by that of MNN in the same round."""
    found: dict[str, list[float]] = {way: [] for way in processes}
    for turn in range(rounds + 1):
        for way, process in processes.items():
            batch = np.roll(pixels, turn, axis=0)[: process.batch_size]
            _, seconds = process.features(batch)
            if turn:  # the first round warms up
                found[way].append(len(batch) / seconds)
    base = np.array(found["mnn float32"])
    return {
        way: {
            "engine": processes[way].name,
            "batch": processes[way].batch_size,
            "images_per_second": float(np.median(rates)),
            "to_mnn": float(np.median(np.array(rates) / base)),
        }
        for way, rates in found.items()
    }


def all_features(process: Process, pixels: np.ndarray) -> np.ndarray:
    size = process.batch_size
    return np.concatenate([process.features(pixels[start : start + size])[0] for start in range(0, len(pixels), size)])


def features_of(processes: dict[str, Process], pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The features of each compared way, computed side by side."""
    with ThreadPoolExecutor(len(COMPARED)) as threads:
        return dict(zip(COMPARED, threads.map(lambda way: all_features(processes[way], pixels), COMPARED), strict=True))


def distance(found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    one, other = (each.reshape(len(each), -1).astype(np.float64) for each in (found, expected))
    lengths = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    cosines = (one * other).sum(axis=1) / (lengths[0] * lengths[1])
    errors = np.linalg.norm(one - other, axis=1) / lengths[1]
    return {
        "cosine_mean": float(cosines.mean()),
        "cosine_worst": float(cosines.min()),
        "relative_l2_mean": float(errors.mean()),
        "relative_l2_worst": float(errors.max()),
    }


def trained(kind: str, train: Split, validation: Split, epochs: int, seed: int) -> np.ndarray:
    """(images,) whether the head predicts the class of each validation image."""
    from vision.training.head import HeadSpec
    from vision.training.head_model import build_head
    from vision.training.statistics import feature_statistics

    spec = HeadSpec(("first", "second"), kind=kind)  # type: ignore[arg-type]
    head = build_head(spec, train[0].shape[1:], feature_statistics([train[0]]), seed)
    order = np.random.default_rng(seed)
    for _ in range(epochs):
        rows = order.permutation(len(train[1]))
        for start in range(0, len(rows) - spec.batch_size + 1, spec.batch_size):
            some = rows[start : start + spec.batch_size]
            head.train_on_batch(train[0][some].astype(np.float32), train[1][some])
    scores = head.predict(validation[0].astype(np.float32), batch_size=100, verbose=0)
    return (scores[:, 0] > 0.5) == validation[1]


def paired(found: np.ndarray, base: np.ndarray) -> dict:
    """The mean difference of two accuracies in points, both (seeds, images), and its 95 % interval."""
    difference = 100 * (found.astype(float) - base)
    draw, (seeds, images) = np.random.default_rng(0), difference.shape
    means = [
        difference[draw.integers(seeds, size=seeds)][:, draw.integers(images, size=images)].mean() for _ in range(DRAWS)
    ]
    return {
        "points": float(difference.mean()),
        "interval": [float(each) for each in np.quantile(means, [0.025, 0.975])],
    }


def accuracies(train: dict[str, np.ndarray], validation: dict[str, np.ndarray], labels: dict, given) -> dict:
    report: dict = {}
    for kind in KINDS:
        right = {}
        for way in COMPARED:
            splits = (train[way], labels["train"]), (validation[way], labels["validation"])
            right[way] = np.stack([trained(kind, *splits, given.epochs, seed) for seed in range(given.seeds)])
            say(f"{kind}, {way}: {right[way].mean(axis=1)}")
        base = right[COMPARED[0]]
        report[kind] = {
            WAYS[way][1]: {"accuracy": right[way].mean(axis=1).tolist(), **paired(right[way], base)} for way in COMPARED
        }
    return report


def report_of(given: argparse.Namespace, folder: Path) -> dict:
    splits = {
        name: read_split(given.images / name, given.per_class, given.image_size) for name in ("train", "validation")
    }
    digest = weights_digest(BACKBONES["vgg16"], str(given.weights), folder / "weights.json")
    processes = {
        way: Process(way, FeatureSpec(digest, image_size=given.image_size, precision=precision), str(given.weights))  # type: ignore[arg-type]
        for way, (_, precision) in WAYS.items()
    }
    report: dict = {"images": {name: len(labels) for name, (_, labels) in splits.items()}, "epochs": given.epochs}
    report["rates"] = rates_of(processes, splits["validation"][0], given.rounds)
    say(f"rates: {report['rates']}")
    validation = features_of(processes, splits["validation"][0])
    report["distance"] = {WAYS[way][1]: distance(validation[way], validation[COMPARED[0]]) for way in COMPARED[1:]}
    say(f"distance: {report['distance']}")
    train = features_of(processes, splits["train"][0])
    for process in processes.values():
        process.close()
    labels = {name: labels for name, (_, labels) in splits.items()}
    return report | {"accuracy": accuracies(train, validation, labels, given)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--per-class", type=int, help="images of each class and split; default: all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = report_of(given, Path(folder))
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
