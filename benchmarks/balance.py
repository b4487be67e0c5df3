"""How long does a child wait for another at the end of an extraction?

    python benchmarks/balance.py [--photos FOLDER] [--weights vgg16_notop.weights.h5] [--sizes 50,200,600] [--workers 2]

For each size a new store. A child's wait is the time between its last computing and that of the last child, in units of
the time that a child needs for 24 images (a batch of MNN at 224 pixels). The last line is one JSON object.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import watched_run

IMAGES_A_BATCH = 24


def measure(count: int, given: argparse.Namespace, folder: Path) -> dict:
    images = watched_run.photos(folder / f"images-{count}", count, given.photos)
    arguments = ["--weights", given.weights] + (["--workers", str(given.workers)] if given.workers else [])
    found = watched_run.run(images, folder / "store", arguments, {})
    rate = found.line["extract_images_per_second"] / max(1, len(found.busy_until))
    last = max(found.busy_until.values())
    waits = sorted((last - moment) * rate / IMAGES_A_BATCH for moment in found.busy_until.values())
    return {
        "images": count,
        "children": len(waits),
        "engine": found.line["engine"],
        "chunks": found.line["shards_written"],
        "images_per_second": found.line["extract_images_per_second"],
        "seconds_a_batch": round(IMAGES_A_BATCH / rate, 2),
        "waits_in_batches": [round(wait, 2) for wait in waits],
        "longest_wait_in_batches": round(waits[-1], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=os.environ.get("PHOTOS"))
    parser.add_argument("--weights", default=os.environ.get("VGG16_WEIGHTS", "random"))
    parser.add_argument("--sizes", default="50,200,600", help="numbers of images; 2400 takes minutes")
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(int(size), given, Path(folder)) for size in given.sizes.split(",")]
    print(json.dumps({"sizes": found}))


if __name__ == "__main__":
    main()
