"""How many pictures per second does the image stream give with one engine, with its threads, and with one engine per core?

    python benchmarks/image_stream.py --photos FOLDER --weights vgg16_notop.weights.h5 [--cut block5] [--images 192]

The real stream decodes and augments the photos (the tutorial's augmentation) and sends them through the network. The
sides compute the same steps in turn, with the rounds in alternating order:

* `one`: one engine with one thread;
* `threads`: one engine with as many threads as there are cores, which trainings used before;
* `copies`: one single-threaded engine per core, as trainings have them.

Features of `one` and `copies` must be equal to the last bit. `critical` is the CPU time of the busiest thread of a side
in seconds, which other work on the machine hardly changes. The last line is one JSON object.
"""

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from storage.schemas import DIGEST
from vision.backbones.weights import load_weights, tensors_digest
from vision.engines import load_engine, unload_engine
from vision.pixels.augmentation import Augmentation
from vision.runtime import prepare_tensorflow
from vision.specs import BACKBONES, FeatureSpec
from workers.devices import available_cores
from workers.jobs.image_stream import ImageStream

TUTORIAL = Augmentation(shear_range=0.2, zoom_range=0.2, horizontal_flip=True)


class Rows:
    """The order of the samples: that of the files, a pass after a pass."""

    seed = 0

    def __init__(self, count: int, batch_size: int):
        self.table, self.batch_size, self.steps = range(count), batch_size, -(-count // batch_size)

    def samples(self, epoch: int = 0, first_step: int = 0, *, epochs: int | None = 1) -> Iterator:
        for start in range(first_step * self.batch_size, len(self.table), self.batch_size):
            yield epoch, np.arange(start, min(start + self.batch_size, len(self.table)))

    def labels(self, samples: np.ndarray) -> np.ndarray:
        return np.zeros(len(samples), np.uint16)


def files_of(photos: Path, count: int) -> pa.Table:
    paths = sorted(photos.rglob("*.jpg"))[:count]
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in paths]
    names = [os.fsencode(path.relative_to(photos)) for path in paths]
    return pa.table({"path": pa.array(names, pa.binary()), "digest": pa.array(digests, DIGEST)})


def thread_seconds() -> dict[str, float]:
    """CPU time of each thread of this process."""
    found, ticks = {}, os.sysconf("SC_CLK_TCK")
    for name in os.listdir("/proc/self/task"):
        fields = Path(f"/proc/self/task/{name}/stat").read_text().rpartition(")")[2].split()
        found[name] = (int(fields[11]) + int(fields[12])) / ticks
    return found


def measure(stream: ImageStream) -> dict:
    """One pass after a first step, which makes the sessions and the graph of the augmentation."""
    next(stream.batches(1))
    before, began = thread_seconds(), time.perf_counter()
    batches = [features for features, _ in stream.batches()]
    seconds = time.perf_counter() - began
    spent = {name: now - before.get(name, 0.0) for name, now in thread_seconds().items()}
    features = np.concatenate(batches)
    return {
        "images_per_second": len(features) / seconds,
        "cpu": round(sum(spent.values()), 2),
        "critical": round(max(spent.values()), 2),
        "digest": hashlib.sha256(features.tobytes()).hexdigest()[:16],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=os.environ.get("PHOTOS"), required="PHOTOS" not in os.environ)
    parser.add_argument("--weights", default=os.environ.get("VGG16_WEIGHTS", "random"))
    parser.add_argument("--engine", default="mnn")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--cut", help="the block in front of which the frozen part ends, for example block5")
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    cores = available_cores()
    prepare_tensorflow(cores)
    digest = tensors_digest(load_weights(BACKBONES["vgg16"], given.weights))
    spec = FeatureSpec(digest, image_size=given.size)
    files = files_of(given.photos, given.images)
    sides = {"one": (1, 1), "threads": (cores, 1), "copies": (1, cores)}
    found: dict[str, list[dict]] = {side: [] for side in sides}
    for number in range(given.rounds):
        for side in list(sides) if number % 2 == 0 else reversed(sides):
            threads, copies = sides[side]
            engine = load_engine(given.engine, spec, given.weights, threads, given.cut, None, copies)
            assert engine.fallback is None, engine.fallback
            stream = ImageStream(Rows(len(files), given.batch_size), files, given.photos, engine, TUTORIAL)
            found[side].append(measure(stream))
            print(f"round {number}, {side}: {found[side][-1]}", file=sys.stderr, flush=True)
            del engine, stream
            unload_engine()
    digests = {side: {one["digest"] for one in rounds} for side, rounds in found.items()}
    assert digests["one"] == digests["copies"], digests
    assert len(digests["one"]) == 1, digests
    print(json.dumps(report_of(given, cores, found, digests)))


def report_of(given: argparse.Namespace, cores: int, found: dict[str, list[dict]], digests: dict) -> dict:
    def ratio(field: str, one: str, other: str) -> float:
        """The median over rounds of the ratio within a round."""
        pairs = zip(found[one], found[other], strict=True)
        return round(statistics.median(a[field] / b[field] for a, b in pairs), 3)

    return {
        "engine": given.engine,
        "cut": given.cut,
        "cores": cores,
        "images": given.images,
        "load": [round(load, 1) for load in os.getloadavg()],
        "rounds": found,
        "median_images_per_second": {
            side: round(statistics.median(one["images_per_second"] for one in rounds), 2)
            for side, rounds in found.items()
        },
        "rate_to_one": {side: ratio("images_per_second", side, "one") for side in ("threads", "copies")},
        "rate_to_threads": ratio("images_per_second", "copies", "threads"),
        "critical_of_one_to": {side: ratio("critical", "one", side) for side in ("threads", "copies")},
        "threads_have_the_same_bits": digests["threads"] == digests["one"],
    }


if __name__ == "__main__":
    main()
