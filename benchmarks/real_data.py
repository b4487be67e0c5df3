"""Do whole runs work on realistic image sets? Copies, unbalanced classes, variants, fine-tuning, each engine.

    python benchmarks/real_data.py [--only "NAME;NAME"]

Generates folders of small pictures and runs the real command line on each twice, the second time with --force-retrain.
32 pixels and random weights keep runs short. With --shuffle-memory-mb 1 a window holds four row groups, so that the
training samples need several windows. Other options have their defaults, except those that a set tests. Asserts that
each run ends with status 0, that both trainings have the same losses, that every training sample occurs once per pass
with its own features and class, and that the memory of a pass stays below its bound.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from storage.backend.paths import place  # noqa: E402
from storage.layout import ROWS_PER_GROUP  # noqa: E402
from storage.manifest.select import one_space  # noqa: E402
from storage.manifest.versions import latest_version  # noqa: E402
from storage.reading import open_split  # noqa: E402
from storage.shards.shard import Shard  # noqa: E402

MEMORY_MB = 1
AUGMENT = json.dumps({"rotation_range": 20, "zoom_range": 0.2, "horizontal_flip": True})
VARIED = ("--augment", AUGMENT, "--variants", "3", "--epochs", "5")
TUNED = ("--fine-tune", "block5", "--fine-tune-epochs", "2", "--epochs", "5")
INDEX_BYTES = 40  # per sample, while a window's order is computed


@dataclass(frozen=True)
class Set:
    """A set of pictures, and the options of its training.

    classes: number of classes; the first has half of the pictures, the next half of the rest, and so on, but each has
    at least two. copied: number of pictures that occur twice; every third copy is in another class. placeholder: number
    of copies of one picture, in two classes.
    """

    pictures: int
    classes: int
    copied: int
    placeholder: int
    arguments: tuple[str, ...]


SETS = {
    "five classes, all defaults": Set(3_600, 5, 80, 0, ()),
    "a thousand classes, tensorflow": Set(4_000, 1_000, 200, 0, ("--engine", "tensorflow", "--epochs", "5")),
    "a placeholder 10,000 times": Set(1_500, 5, 40, 10_000, ("--sampling", "bootstrap", "--epochs", "3")),
    "variants": Set(1_500, 20, 60, 300, VARIED),
    "fine-tuned, mnn": Set(1_000, 5, 60, 0, ("--engine", "mnn", *TUNED)),
    "fine-tuned, tensorflow": Set(1_000, 5, 60, 0, ("--engine", "tensorflow", *TUNED)),
}


def generate(images: Path, made: Set) -> None:
    """Write pictures whose colours roughly indicate their class."""
    draw = np.random.default_rng(made.pictures)
    numbers = np.concatenate(
        [np.arange(made.classes).repeat(2), _halves(made.pictures - 2 * made.classes, made.classes)]
    )
    colours = draw.integers(60, 196, (made.classes, 3))
    for number, own in enumerate(numbers):
        pixels = np.clip(colours[own] + draw.normal(0, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
        path = _path(images, own, f"{number:05d}")
        Image.fromarray(pixels).save(path)
        if number < made.copied:
            os.link(path, _path(images, (own + (number % 3 == 0)) % made.classes, f"copy-{number:05d}"))
    for number in range(made.placeholder):
        os.link(path, _path(images, number % 10 == 0, f"placeholder-{number:05d}"))


def _halves(count: int, classes: int) -> np.ndarray:
    """The class of each of `count` pictures: half in the first class, half of the rest in the next, and so on."""
    return np.minimum(np.floor(-np.log2(1 - np.arange(count) / count)), classes - 1).astype(int)


def _path(images: Path, number: int, name: str) -> Path:
    path = images / f"class-{int(number):03d}" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def run(images: Path, store: Path, home: Path, arguments: tuple[str, ...]) -> dict:
    command = [sys.executable, PROJECT / "flows" / "pipeline.py", "--images", images, "--store", store, "--head", "mlp"]
    command += ["--weights", "random", "--image-size", "32", "--shuffle-memory-mb", str(MEMORY_MB), *arguments]
    environment = {**os.environ, "PREFECT_HOME": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=environment)
    assert done.returncode == 0, f"status {done.returncode}\n{done.stderr[-3000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def history(store: Path, head: str) -> list[dict]:
    return json.loads((store / "heads" / head / "head.json").read_text())["history"]


def samples_there(store: Path, classes: tuple[str, ...]) -> Counter:
    """Count (features, class) of the training images, read directly from the newest version's tables and shards."""
    where = one_space(place(str(store)), "")
    version = latest_version(where)
    assert version is not None
    shards = {name: Shard(where, ref).read() for name, ref in version.shards.items()}
    at = {row["digest"]: (row["shard"], row["row"]) for row in version.read_rows(where).to_pylist() if not row["view"]}
    files = [file for file in version.read_files(where).to_pylist() if file["split"] == "train"]
    found: Counter = Counter()
    for file in files:
        shard, row = at[file["digest"]]
        found[shards[shard][row].tobytes(), classes.index(file["class"])] += 1
    return found


def stream_figures(store: Path) -> dict:
    """Check that two passes give each training sample once, and measure the memory of a pass."""
    stream = open_split(store, "train", seed=1, memory_mb=MEMORY_MB)
    there = samples_there(store, stream.table.classes)
    assert stream.order.num_windows > 1, "a set that needs one window alone shows nothing"
    for epoch in range(2):
        found = Counter((f.tobytes(), int(c)) for batch in stream.batches(epoch) for f, c in zip(*batch, strict=True))
        assert found == there
    tracemalloc.start()
    for _ in stream.batches(2):
        pass
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    batch_bytes = stream.batch_size * stream.kind.row_bytes
    bound = max(MEMORY_MB * 2**20, 2 * ROWS_PER_GROUP * stream.kind.row_bytes) + 4 * batch_bytes
    bound += INDEX_BYTES * there.total() + 2**20  # for Python itself
    assert peak_bytes < bound, (peak_bytes, bound)
    return {
        "training_samples": there.total(),
        "windows": stream.order.num_windows,
        "pass_mb": round(peak_bytes / 2**20, 2),
        "bound_mb": round(bound / 2**20, 2),
    }


def hold(made: Set, work: Path, home: Path) -> dict:
    images, store, began = work / "images", work / "store", time.monotonic()
    generate(images, made)
    first = run(images, store, home, made.arguments)
    assert first["images"] == made.pictures + made.copied + made.placeholder, first["images"]
    heads = [name for name in (first["head"], first["model"]) if name]
    histories = [history(store, name) for name in heads]
    second = run(images, store, home, (*made.arguments, "--force-retrain"))
    assert (second["head"], second["extracted"]) == (first["head"], 0)
    again = [history(store, name) for name in heads]
    assert again == histories, f"another training of the same came to other losses:\n{histories}\n{again}"
    keys = ("images", "classes", "extracted", "engine", "val_loss", "model_val_loss", "peak_rss_mb")
    return {key: first[key] for key in keys} | stream_figures(store) | {"seconds": round(time.monotonic() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names of sets, separated by semicolons", default=";".join(SETS))
    wanted = parser.parse_args().only.split(";")
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(wanted):
            figures[name] = hold(SETS[name], Path(folder, str(number)), Path(folder, "prefect"))
            print(name, figures[name], file=sys.stderr, flush=True)
    print(json.dumps({"memory_mb": MEMORY_MB, "sets": figures}))


if __name__ == "__main__":
    main()
