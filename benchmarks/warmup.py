"""How long until the first image is read, with the facts about the engine cached and without?

    python benchmarks/warmup.py [--photos FOLDER] [--weights vgg16_notop.weights.h5] [--runs 10] [--children 2,8]

Each run extracts a few images into a new store. Runs with and without facts take turns. The caches are folders of the
benchmark, so that the user's stay as they are. The last line is one JSON object.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from statistics import median

import watched_run


def measure(children: int, is_cached: bool, given: argparse.Namespace, folder: Path) -> watched_run.WatchedRun:
    cache = folder / "cache"
    if not is_cached:
        shutil.rmtree(cache / "extract-and-train" / "engines", ignore_errors=True)
    arguments = ["--weights", given.weights, "--workers", str(children), "--engine", given.engine]
    return watched_run.run(folder / "images", folder / "store", arguments, {"XDG_CACHE_HOME": str(cache)})


def report(children: int, is_cached: bool, runs: list[watched_run.WatchedRun]) -> dict:
    seconds = [run.line["warmup_seconds"] for run in runs]
    middle = median(seconds)
    return {
        "children": children,
        "facts_cached": is_cached,
        "warmup_seconds": [round(value, 2) for value in seconds],
        "median": round(middle, 2),
        "spread": round((max(seconds) - min(seconds)) / middle, 3),
        "cpu_seconds_of_the_run": round(median(run.cpu_seconds for run in runs), 2),
        "command_seconds": round(median(run.seconds for run in runs), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=os.environ.get("PHOTOS"))
    parser.add_argument("--weights", default=os.environ.get("VGG16_WEIGHTS", "random"))
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--children", default="2,8")
    parser.add_argument("--images", type=int, default=48, help="images per run")
    parser.add_argument("--engine", default="auto")
    given = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        watched_run.photos(folder / "images", given.images, given.photos)
        measure(1, True, given, folder)  # Prefect's database, and the files in the kernel's cache
        for children in map(int, given.children.split(",")):
            pairs = [[measure(children, cached, given, folder) for cached in (False, True)] for _ in range(given.runs)]
            found += [report(children, cached, [pair[cached] for pair in pairs]) for cached in (False, True)]
    print(json.dumps({"engine": given.engine, "images": given.images, "runs": found}))


if __name__ == "__main__":
    main()
