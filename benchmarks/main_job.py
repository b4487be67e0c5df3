"""Does the main job work on real photos? Runs the command line as a user does; the last line is one JSON object.

    python benchmarks/main_job.py --photos FOLDER --weights vgg16_notop.weights.h5

Steps: a whole run; a comparison of stored features with Keras' own VGG16; the same run again, compared with a bare
`import prefect`; one photo added, deleted, relabelled and renamed, and all put back; an empty and a half-empty folder;
all of Prefect's state deleted; and, on some of the photos, `kill -9` of the whole process group at random moments.
Every check is an assertion, so a figure is printed only if its check holds.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from storage.layout import Store  # noqa: E402
from storage.manifest.versions import Version, latest_version  # noqa: E402
from storage.shards.shard import Shard  # noqa: E402

IMPORT_PREFECT = [sys.executable, "-c", "import prefect"]


class Runs:
    """Runs of the command line on one folder of images and one store, with a separate Prefect home."""

    def __init__(self, root: Path, weights: Path, *options: str):
        self.images, self.store, self.home = root / "images", root / "store", root / "prefect"
        self.environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
        self.environment |= {"PREFECT_HOME": str(self.home)}
        self.options = ["--weights", str(weights), *options]

    def start(self, *options: str) -> subprocess.Popen:
        command = [sys.executable, PROJECT / "flows" / "pipeline.py", "--images", self.images, "--store", self.store]
        return subprocess.Popen(
            [*map(str, command), *self.options, *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *options: str, status: int = 0) -> dict | None:
        process = self.start(*options)
        stdout, stderr = process.communicate()
        assert process.returncode == status, f"status {process.returncode}, expected {status}:\n{stderr[-3000:]}"
        say(f"  {stderr.strip().splitlines()[-1][:160]}" if status else "  done")
        return json.loads(stdout.splitlines()[-1]) if stdout.strip() else None

    def version(self, record: dict) -> tuple[Store, Version]:
        where = Store(self.store, record["fingerprint"])
        version = latest_version(where)
        assert version is not None
        return where, version

    def features(self, record: dict) -> dict[bytes, np.ndarray]:
        where, version = self.version(record)
        arrays = {name: Shard(where, ref).read() for name, ref in version.shards.items()}
        return {row["digest"]: arrays[row["shard"]][row["row"]] for row in version.read_rows(where).to_pylist()}


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def first_run(runs: Runs, epochs: list[str]) -> dict:
    record = runs(*epochs)
    where, version = runs.version(record)
    assert (record["extracted"], record["quarantined"]) == (record["images"], 0)
    size = sum(path.stat().st_size for path in where.shards.glob("*/*"))
    return record | {"bytes_an_image": size / sum(ref.num_rows for ref in version.shards.values())}


def compare_with_keras(runs: Runs, record: dict, weights: Path, count: int) -> dict:
    """The largest relative L2 distance between stored features and Keras' own, on the same pixels."""
    import keras
    from PIL import Image

    from vision.specs import FeatureSpec

    where, version = runs.version(record)
    spec = FeatureSpec(**json.loads((where.space / "space.json").read_text())["spec"])
    stored = runs.features(record)
    files = version.read_files(where).to_pylist()
    chosen = random.Random(0).sample(files, count)
    pixels = []
    for file in chosen:
        with Image.open(runs.images / os.fsdecode(file["path"])) as image:
            resized = image.convert("RGB").resize((spec.image_size, spec.image_size), Image.Resampling.BILINEAR)
            pixels.append(np.asarray(resized, np.float32))
    model = keras.applications.VGG16(weights=None, include_top=False)
    model.load_weights(weights)
    expected = model.predict(keras.applications.vgg16.preprocess_input(np.stack(pixels)), batch_size=8, verbose=0)
    got = np.stack([stored[file["digest"]] for file in chosen]).astype(np.float32)
    distances = np.linalg.norm((got - expected).reshape(count, -1), axis=1)
    relative = distances / np.linalg.norm(expected.reshape(count, -1), axis=1)
    assert relative.max() < 5e-4, relative.max()
    rounding = expected.astype(np.float16).astype(np.float32)
    floor = np.linalg.norm((rounding - expected).reshape(count, -1)) / np.linalg.norm(expected)
    return {"images": count, "largest_relative_l2": float(relative.max()), "float16_rounding_alone": float(floor)}


def nothing_to_do(runs: Runs, first: dict, epochs: list[str], repeats: int) -> dict:
    """Repeat the run, in turn with a bare import of Prefect."""
    home = sorted(runs.home.rglob("*"))
    ours, bare = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        record = runs(*epochs)
        ours.append(time.perf_counter() - began)
        assert (record["extracted"], record["version"], record["head"]) == (0, first["version"], first["head"])
        began = time.perf_counter()
        subprocess.run(IMPORT_PREFECT, env=runs.environment, check=True)
        bare.append(time.perf_counter() - began)
    assert sorted(runs.home.rglob("*")) == home  # no server ran, since it would have written here
    ratio = statistics.median(ours) / statistics.median(bare)
    return {
        "seconds": statistics.median(ours),
        "import_prefect_seconds": statistics.median(bare),
        "ratio": ratio,
        "repeats": repeats,
    }


def change_and_put_back(runs: Runs, first: dict, epochs: list[str], spare: Path) -> dict:
    """Add, delete, relabel and rename one photo each, then put everything back."""
    folders = sorted(path for path in runs.images.glob("*/*") if path.is_dir())
    one, other = folders[0], folders[1]
    photos = sorted(one.iterdir())
    kept = runs.images.with_name("kept")
    shutil.copytree(runs.images, kept)
    shutil.copy2(spare, one / "added.jpg")
    photos[0].unlink()
    photos[1].rename(other / photos[1].name)
    photos[2].rename(one / "renamed.jpg")
    changed = runs(*epochs)
    counts = {k: changed[k] for k in ("new", "removed", "relabelled", "moved", "extracted", "version")}
    assert counts == {"new": 1, "removed": 1, "relabelled": 1, "moved": 1, "extracted": 1, "version": 2}, counts
    assert changed["head"] != first["head"]
    shutil.rmtree(runs.images)
    kept.rename(runs.images)
    back = runs(*epochs)
    assert (back["extracted"], back["version"], back["head"]) == (0, 3, first["head"])
    assert back["val_accuracy"] == first["val_accuracy"]
    return {"changed": counts, "changed_val_accuracy": changed["val_accuracy"], "back_extracted": back["extracted"]}


def removal_guard(runs: Runs) -> dict:
    """Run the same store on an empty folder, and on half of the photos."""
    images = runs.images
    statuses = {}
    try:
        for name, share in (("empty", 0), ("half", 2)):
            runs.images = images.with_name(name)
            runs.images.mkdir()
            for index, path in enumerate(sorted(images.glob("*/*/*"))):
                if share and index % share == 0:
                    target = runs.images / path.relative_to(images)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, target)
            assert runs(status=4) is None
            statuses[name] = 4
    finally:
        runs.images = images
    return statuses


def without_prefect_state(runs: Runs, spare: Path) -> dict:
    shutil.rmtree(runs.home)
    shutil.rmtree(runs.store / "cache")
    added = next(path for path in sorted(runs.images.glob("*/*")) if path.is_dir()) / "after.jpg"
    shutil.copy2(spare, added)
    record = runs("--extract-only")
    assert record["extracted"] <= 1
    return {"extracted": record["extracted"], "new": record["new"]}


def kills(root: Path, photos: Path, weights: Path, count: int, num_photos: int, seed: int) -> dict:
    """Kill the process group (-9) at random moments of a run on some photos, and add one photo in between."""
    runs = Runs(root, weights, "--chunk-size", "16", "--extract-only")
    chosen = random.Random(seed).sample(sorted(photos.glob("*/*/*.jpg")), num_photos + 1)
    for path in chosen[:-1]:
        copy_photo(path, photos, runs.images)
    moments = random.Random(seed)
    killed_at = []
    for number in range(count):
        process = runs.start()
        wait = moments.uniform(1, 45)
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            killed_at.append(round(wait, 1))
        process.communicate()
        say(f"  killed after {wait:.1f} s; {len(list(runs.store.glob('*/shards/*/*')))} shards")
        if number == count // 2:
            copy_photo(chosen[-1], photos, runs.images)
    record = runs()
    where, version = runs.version(record)
    rows_on_disk = sum(Shard(where, ref).ref.num_rows for ref in version.shards.values())
    shards_on_disk = {path.name for path in where.shards.glob("*/*")}
    assert version.counts["ok"] == len(chosen)
    assert shards_on_disk == set(version.shards)
    fresh = Runs(root / "fresh", weights, *runs.options[2:])
    shutil.copytree(runs.images, fresh.images)
    one, other = runs.features(record), fresh.features(fresh())
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[digest], other[digest]) for digest in one)
    return {
        "killed_after_seconds": killed_at,
        "images": len(chosen),
        "rows_extracted_twice": rows_on_disk - len(chosen),
        "last_run_extracted": record["extracted"],
        "last_run_adopted": record["adopted"],
        "equal_to_a_fresh_run": True,
    }


def copy_photo(path: Path, source: Path, target: Path) -> None:
    place = target / path.relative_to(source)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=os.environ.get("PHOTOS"), help="train/ and validation/ folders")
    parser.add_argument("--weights", type=Path, default=os.environ.get("VGG16_WEIGHTS"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--kill-photos", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if not given.photos or not given.weights:
        parser.error("--photos and --weights (or PHOTOS and VGG16_WEIGHTS) say where the photos and the weights are")
    epochs = ["--head", "mlp", "--epochs", str(given.epochs)]
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder) / "main", given.weights.resolve())
        shutil.copytree(given.photos, runs.images)
        spare = min(path for path in given.photos.glob("*/*/*.jpg"))
        changed = Path(folder) / "spare.jpg"
        changed.write_bytes(spare.read_bytes() + b"\0")  # a new digest for the store, the same picture to the eye
        report = {}
        for name, step in {
            "first_run": lambda: first_run(runs, epochs),
            "against_keras": lambda: compare_with_keras(runs, report["first_run"], given.weights, 32),
            "nothing_to_do": lambda: nothing_to_do(runs, report["first_run"], epochs, 5),
            "change_and_put_back": lambda: change_and_put_back(runs, report["first_run"], epochs, changed),
            "removal_guard": lambda: removal_guard(runs),
            "without_prefect_state": lambda: without_prefect_state(runs, changed),
            "kills": lambda: kills(
                Path(folder) / "kills",
                given.photos,
                given.weights.resolve(),
                given.kills,
                given.kill_photos,
                given.seed,
            ),
        }.items():
            say(name)
            report[name] = step()
            say(f"  {report[name]}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
