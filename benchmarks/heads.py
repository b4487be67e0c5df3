"""What kinds of heads reach on stored features, and what they cost. The last line is one JSON object.

    python benchmarks/heads.py --photos PHOTOS --weights FILE [--folder FOLDER]

Two sets. `photos`: the class folders of `--photos`, at 224 pixels. `digits`: five classes made of the scanned digits that
scikit-learn ships (8x8 grey, E. Alpaydin and C. Kaynak, UCI 1998), the five that look most alike: 1, 3, 5, 8 and 9, at 64 pixels.
The pipeline extracts both; one photo in five and every second digit validates, since there are few digits. `--folder` keeps the
stores for the next call.

For each seed one process trains, in turn, the tutorial's head (mlp, 20 epochs), the same at a tenth of its learning rate, a pooled
head and a logistic one, all libraries loaded. The solver finds the same weights with every seed, so its accuracy has no spread. Ratios
of times hold on a busy machine too, their absolute values do not. `seconds` is the training, `cpu_seconds` the whole job of all
threads, with the report and the head's file.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

BENCHMARKS = Path(__file__).parent
PROJECT = BENCHMARKS.parent
sys.path.insert(0, str(PROJECT))

from training_memory import say  # noqa: E402

from flows.options.demo import write_digits  # noqa: E402
from flows.options.pipeline import PipelineOptions  # noqa: E402
from storage.heads.registry import model_file  # noqa: E402
from storage.manifest.versions import latest_version  # noqa: E402
from workers.jobs.records import VersionRecord  # noqa: E402
from workers.jobs.spaces import version_record  # noqa: E402

DIGITS = ("1", "3", "5", "8", "9")
HEADS: dict[str, dict[str, Any]] = {
    "mlp": {"head": "mlp"},
    "mlp, rate 1e-4": {"head": "mlp", "learning_rate": 1e-4},
    "pooled": {"head": "pooled"},
    "logistic": {"head": "logistic"},
}


def five_digits(folder: Path) -> Path:
    """Write the images of five digits, once."""
    if not folder.is_dir():
        write_digits(folder.with_name("all-digits"))
        for name in DIGITS:
            shutil.copytree(folder.with_name("all-digits") / name, folder / name)
    return folder


def extracted(images: Path, store: Path, weights: Path, **own: Any) -> dict[str, Any]:
    """Extract with the pipeline. own: more of its options. Returns all of them."""
    options = {"images": str(images), "store": str(store), "weights": str(weights)} | own
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, str(PROJECT / "flows" / "pipeline.py"), *flags, "--outside-links", "--extract-only"]
    subprocess.run(
        command, check=True, cwd=store.parent, env=os.environ | {"PREFECT_HOME": str(store.parent / "prefect")}
    )
    return options


def trained(options: PipelineOptions, version: VersionRecord) -> dict[str, float]:
    """Train a head anew in this process, and compare it with none."""
    from workers.jobs.train import train_head

    space = options.space()
    (job,) = options.head_jobs(space, version)
    began = time.process_time()
    result = train_head(replace(job, promote="never", is_forced=True), lambda record: None)
    cpu_seconds = time.process_time() - began
    size = os.path.getsize(model_file(space.store, job.name))
    return {
        "accuracy": result.val_accuracy,
        "loss": result.val_loss or float("nan"),
        "seconds": result.train_seconds,
        "cpu_seconds": cpu_seconds,
        "kilobytes": size / 1000,
    }


def measured(options: dict[str, Any], seeds: int, heads: list[str]) -> dict[str, Any]:
    """The figures of every head, as means over the seeds; of times the smallest too."""
    version = version_record(latest_version(PipelineOptions(**options).space().store))  # type: ignore[arg-type]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in heads}
    for seed in range(seeds):
        for name in heads:
            found[name].append(trained(PipelineOptions(**options, **HEADS[name], seed=seed), version))
            say(f"{Path(options['store']).name}, seed {seed}, {name}: {found[name][-1]}")
    sizes = {split: sum(by_class.values()) for split, by_class in version.classes.items()}
    return {"images": sizes, "classes": len(version.class_names)} | {
        name: summary(rows) for name, rows in found.items()
    }


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means over the seeds, the spread of the accuracy, and the smallest time."""
    means = {name: round(fmean(row[name] for row in rows), 4) for name in rows[0]}
    accuracies = [row["accuracy"] for row in rows]
    spread = stdev(accuracies) if len(rows) > 1 else 0.0
    return means | {"accuracy_spread": round(spread, 4), "least_seconds": round(min(row["seconds"] for row in rows), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of class folders; without it only the digits")
    parser.add_argument("--weights", type=Path, required=True, help="Keras weights of VGG16 without its top")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS), help="with mlp and logistic")
    parser.add_argument("--folder", type=Path, help="folder that keeps the stores; default: a temporary one")
    given = parser.parse_args()
    import sklearn.linear_model  # noqa: F401 - loaded before any time is measured

    from vision.training.head_model import load_keras

    load_keras()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        sets: dict[str, tuple[Path, dict[str, Any]]] = {
            "digits": (five_digits(folder / "digits"), {"image_size": 64, "validation_fraction": 0.5})
        }
        if given.photos:
            sets["photos"] = (given.photos.absolute(), {})
        report = {}
        for name, (images, own) in sets.items():
            options = extracted(images, folder / f"{name}-store", given.weights.absolute(), **own)
            report[name] = measured(options, given.seeds, given.heads)
    for name, found in report.items():
        found["logistic_is_at_least_as_accurate"] = found["logistic"]["accuracy"] >= found["mlp"]["accuracy"]
        found["time_of_the_mlps"] = round(found["logistic"]["seconds"] / found["mlp"]["seconds"], 4)
        found["cpu_time_of_the_mlps"] = round(found["logistic"]["cpu_seconds"] / found["mlp"]["cpu_seconds"], 4)
        say(f"{name}: {found['logistic']} against {found['mlp']}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
