"""What do bad files among the images cost? The same folder with and without 1 % of them, in turn.

    python benchmarks/bad_images.py --photos FOLDER [--rounds 3] [--weights FILE]

The clean folder has 2,400 photos from FOLDER. The spoiled copy has 24 more files, of eight bad kinds. The real command
line extracts both. By default benchmarks/null_backbone.py replaces the network, whose time would hide the cost of
isolation; --weights uses the network itself. Asserts that every good photo has its row, that every bad file has its
code, and that a run is at most 5 % slower.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from tests import bad  # noqa: E402

EIGHT = {
    "empty.jpg": "zero_byte",
    "text.png": "not_image",
    "tiff.jpg": "unsupported",
    "half.jpg": "truncated",
    "damaged middle.png": "decode_error",
    "bomb.png": "too_many_pixels",
    "half.webp": "decode_error",
    "all but the end.jpg": "truncated",
}
PHOTOS, BAD = 2400, 24
MOST_SLOWER = 1.05


def folders(photos: Path, work: Path) -> tuple[Path, Path]:
    """Make the clean and the spoiled folder from copies of the photos."""
    found = sorted(photos.rglob("*.jpg"))[:PHOTOS]
    for name in ("clean", "spoiled"):
        for number, path in enumerate(found):
            target = work / name / f"class{number % 2}" / f"{number:05d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for number in range(BAD):
        kind = list(EIGHT)[number % len(EIGHT)]
        data = bad.BAD[kind][1]
        more = b"" if kind == "empty.jpg" else b"%d" % number  # since equal files are decoded once
        (work / "spoiled" / f"class{number % 2}" / f"bad {number} {kind}").write_bytes(data + more)
    return work / "clean", work / "spoiled"


def run(images: Path, store: Path, weights: str | None) -> dict:
    script = "flows/pipeline.py" if weights else "benchmarks/null_backbone.py"
    command = [sys.executable, PROJECT / script, "--images", images, "--store", store, "--extract-only"]
    command += ["--weights", weights] if weights else []
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--weights")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"clean": [], "spoiled": []}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pair = folders(options.photos, work)
        good = sum(1 for _ in pair[0].rglob("*.jpg"))
        for number in range(options.rounds):
            for images in pair if number % 2 else reversed(pair):
                store = work / "store"
                record = run(images, store, options.weights)
                is_spoiled = images.name == "spoiled"
                assert record["extracted"] == good, record
                assert record["quarantined"] == (BAD if is_spoiled else 0), record
                seconds[images.name].append(record["extract_seconds"])
                shutil.rmtree(store)
    ratio = statistics.median(seconds["spoiled"]) / statistics.median(seconds["clean"])
    assert ratio <= MOST_SLOWER, seconds
    print(json.dumps({"good": good, "bad": BAD, "good_rows_lost": 0, "slower": round(ratio, 4), "seconds": seconds}))


if __name__ == "__main__":
    main()
