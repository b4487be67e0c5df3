"""How long do neighbours and near-duplicates of 100,000 images take, and does memory stay flat? The last line is one JSON object.

    python benchmarks/neighbours.py [--images 100000] [--more 316228]

The vectors are synthetic: 512 channels, none negative, 200 clusters whose axes decay as those of real features do, and one image in
a hundred is a near copy of another. `similar` is the real command on a store of such features, in processes of their own. The
near-duplicate pass runs over `--images` and over `--more` vectors of a file, each in a child whose anonymous memory is sampled.
Every planted copy must be found.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from storage.layout import Store  # noqa: E402
from storage.manifest.space import create_space  # noqa: E402
from storage.records import fingerprint  # noqa: E402
from tests.maps import commit_maps  # noqa: E402
from vision.inspection.close_pairs import close_pairs  # noqa: E402
from vision.specs import FeatureSpec  # noqa: E402

CHANNELS, CLUSTERS, ROWS = 512, 200, 8192
THRESHOLD = 0.9
PLANTED = 100  # one image in so many is a near copy


def vectors_in(path: Path, num_images: int) -> np.memmap:
    """(num_images, CHANNELS) float32 in a file; image PLANTED * k + 1 is a near copy of the one before."""
    random = np.random.default_rng(0)
    scales = (1 + np.arange(CHANNELS)) ** -0.5
    turn = np.linalg.qr(random.normal(size=(CHANNELS, CHANNELS)))[0]
    centres = random.normal(size=(CLUSTERS, CHANNELS)) * scales
    made = np.memmap(path, np.float32, "w+", shape=(num_images, CHANNELS))
    for start in range(0, num_images, ROWS):
        rows = min(ROWS, num_images - start)
        of = centres[random.integers(0, CLUSTERS, rows)] + random.normal(size=(rows, CHANNELS)) * scales
        made[start : start + rows] = np.maximum(of @ turn + 0.05, 0)
    copies = np.arange(1, num_images, PLANTED)
    made[copies] = made[copies - 1] * (1 + 0.02 * random.normal(size=(len(copies), CHANNELS)))
    made.flush()
    return made


def anonymous_mb() -> float:
    """The memory of this process that belongs to no file, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1000


def near_pass(path: Path, num_images: int) -> dict:
    """The near-duplicate pass in this process."""
    vectors = np.memmap(path, np.float32, "r", shape=(num_images, CHANNELS))
    peak, is_over = [anonymous_mb()], threading.Event()

    def sample() -> None:
        while not is_over.wait(0.05):
            peak[0] = max(peak[0], anonymous_mb())

    sampler = threading.Thread(target=sample)
    sampler.start()
    before, began, cpu = anonymous_mb(), time.monotonic(), time.process_time()
    pairs, copies = 0, set()
    for found in close_pairs(vectors, np.arange(num_images), THRESHOLD):
        pairs += len(found.first)
        is_next = found.second == found.first + 1
        copies |= set(found.second[is_next].tolist())
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    is_over.set()
    sampler.join()
    planted = set(range(1, num_images, PLANTED))
    assert planted <= copies, f"{len(planted - copies)} planted copies were missed"
    record = {"images": num_images, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "pairs": pairs}
    return record | {"grown_mb": round(peak[0] - before, 1)}


def similar_seconds(folder: Path, vectors: np.ndarray) -> list[float]:
    """Seconds of the command on a store of these features: the first call pools, the others are warm."""
    spec = FeatureSpec(weights="0" * 32, pooling="avg").record()
    store = Store(folder / "store", fingerprint(spec))
    create_space(store, spec)
    digests = [hashlib.sha256(b"%d" % index).digest() for index in range(len(vectors))]
    files = [
        (b"%02d/%06d.jpg" % (index % 10, index), f"{index % 10:02d}", "train", digest)
        for index, digest in enumerate(digests)
    ]
    maps = {digest: row.astype(np.float16) for digest, row in zip(digests, vectors, strict=True)}
    commit_maps(store, None, files, maps, rows_a_shard=4096)
    seconds = []
    for index in (0, 0, *(len(vectors) * quarter // 4 for quarter in (1, 2, 3))):
        image = f"{index % 10:02d}/{index:06d}.jpg"
        command = [sys.executable, "-m", "storage", "similar", image, "--store", str(store.root), "--json"]
        began = time.monotonic()
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        seconds.append(round(time.monotonic() - began, 2))
        assert len(json.loads(done.stdout)["similar"]) == 9
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--more", type=int, default=316_228, help="for the second pass; 0 leaves it out")
    parser.add_argument("--pass", dest="near", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.near:
        print(json.dumps(near_pass(Path(given.near[0]), int(given.near[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        record: dict = {"load": round(os.getloadavg()[0], 1)}
        passes = []
        for number in filter(None, (given.images, given.more)):
            path = Path(folder) / "vectors"
            vectors = vectors_in(path, number)
            if number == given.images:
                record["similar_seconds"] = similar_seconds(Path(folder), vectors)
            command = [sys.executable, __file__, "--pass", str(path), str(number)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            passes.append(json.loads(done.stdout.splitlines()[-1]))
            print(passes[-1], flush=True)
        print(json.dumps(record | {"near_duplicates": passes}))


if __name__ == "__main__":
    main()
