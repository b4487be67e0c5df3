"""Does an inspection find wrong labels and blurred pictures?

    python benchmarks/suspects.py --photos FOLDER --weights vgg16_notop.weights.h5 [--store STORE]

Extracts features of class folders (or takes those of STORE), flips 5 % of the labels on purpose with five seeds, and looks at the suspects of
confident learning: the precision of the first k, k = number of flipped labels; precision and recall of all that are listed. Lists the suspects of the photos as they
are; asserts that cat.4085 of Kaggle's "Dogs vs. Cats", a dog, is among the first three of its class if it is there. Blurs a sample of the photos, and counts how many are
called blurred before and after.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from storage.backend.paths import place  # noqa: E402
from storage.manifest.select import chosen_version, one_space  # noqa: E402
from storage.reading.pooled import pooled_files, pooled_vectors  # noqa: E402
from vision.inspection.held_out import hold_out  # noqa: E402
from vision.inspection.quality import BLURRED, SIDE, measure  # noqa: E402
from vision.inspection.suspects import Suspects, find_suspects  # noqa: E402

SEEDS = range(5)
FLIPPED = 0.05
BLURRED_PHOTOS = 400
RADIUS = 2  # pixels of SIDE


class Data:
    """The pooled features of a store, with the labels of its files."""

    def __init__(self, folder: str):
        store = one_space(place(folder), "")
        version = chosen_version(store, None)
        vectors = pooled_vectors(store, version)
        files = pooled_files(store, version, vectors)
        rows = files["row"].to_numpy()
        self.paths = [os.fsdecode(path) for path in files["path"].to_pylist()]
        self.names = sorted(set(files["class"].to_pylist()))
        self.labels = np.array([self.names.index(name) for name in files["class"].to_pylist()])
        self.images = np.ascontiguousarray(vectors.digests[rows][:, :8]).view("<u8").ravel()
        self.features = np.hstack([vectors.average[rows], vectors.maximum[rows]])

    def suspects(self, labels: np.ndarray) -> Suspects:
        held = hold_out(lambda places: self.features[places], labels, self.images, len(self.names), 2)
        return find_suspects(held.blocks, labels, len(self.names))


def flipped(data: Data, seed: int) -> dict[str, Any]:
    """Flip labels, and look whether they are found."""
    draw, count = np.random.default_rng(seed), round(FLIPPED * len(data.labels))
    wrong = draw.permutation(len(data.labels))[:count]
    labels = data.labels.copy()
    labels[wrong] = (labels[wrong] + draw.integers(1, len(data.names), count)) % len(data.names)
    began = time.perf_counter()
    found = data.suspects(labels)
    is_hit = np.isin(found.places, wrong)
    return {
        "seed": seed,
        "flipped": count,
        "listed": len(is_hit),
        "precision_at_k": round(float(is_hit[:count].mean()), 4),
        "precision_at_half_k": round(float(is_hit[: count // 2].mean()), 4),
        "precision": round(float(is_hit.mean()), 4),
        "recall": round(float(is_hit.sum() / count), 4),
        "seconds": round(time.perf_counter() - began, 1),
    }


def as_they_are(data: Data) -> list[dict[str, Any]]:
    """The suspects of the photos as they are."""
    found = data.suspects(data.labels)
    rows = [
        {
            "path": data.paths[place],
            "class": data.names[data.labels[place]],
            "suggested": data.names[other],
            "score": round(float(score), 4),
        }
        for place, other, score in zip(found.places, found.suggested, found.score, strict=True)
    ]
    if dogs := [path for path in data.paths if path.endswith("cats/cat.4085.jpg")]:
        cats = [row["path"] for row in rows if row["class"] == "cats"]
        assert dogs[0] in cats[:3], cats[:3]
    return rows


def blurred(photos: Path) -> dict[str, float]:
    """The shares of photos that are called blurred, as they are and after a Gaussian blur."""
    files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    before, after = [], []
    for number in np.random.default_rng(0).permutation(len(files))[:BLURRED_PHOTOS]:
        data = files[number].read_bytes()
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image.thumbnail((SIDE, SIDE))
        sink = io.BytesIO()
        image.filter(ImageFilter.GaussianBlur(RADIUS)).save(sink, "PNG")
        before.append(measure(data).sharpness < BLURRED)
        after.append(measure(sink.getvalue()).sharpness < BLURRED)
    return {
        "photos": len(before),
        "called_blurred": float(np.mean(before)),
        "called_blurred_after": float(np.mean(after)),
    }


def extracted(photos: Path, weights: str, store: str) -> None:
    command = [sys.executable, "flows/pipeline.py", "--images", str(photos), "--store", store, "--weights", weights]
    subprocess.run([*command, "--extract-only"], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--store", help="a store that has the features of these photos")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or f"{folder}/store"
        if not options.store:
            extracted(options.photos.resolve(), options.weights, store)
        data = Data(store)
        runs = []
        for seed in SEEDS:
            runs.append(flipped(data, seed))
            print(runs[-1], flush=True)
        mean = {
            name: round(float(np.mean([run[name] for run in runs])), 4)
            for name in ("listed", "precision_at_k", "precision_at_half_k", "precision", "recall")
        }
        assert mean["precision"] > 0.7
        assert mean["recall"] > 0.7
        record = {"images": len(data.labels), "mean": mean, "runs": runs, "as_they_are": as_they_are(data)}
        print(json.dumps(record | {"blur": blurred(options.photos)}))


if __name__ == "__main__":
    main()
