"""Are the features of each family of keras.applications those of Keras, and how fast is each engine?

    python benchmarks/backbones.py [NAME …] [--size 224] [--seconds 5]

One process per backbone, with random weights and one thread, on generated pictures. Distances are relative L2 distances to
Keras' own network behind Keras' own preprocessing; rates are images per second of CPU time. The last line on standard output is
one JSON object.
"""

import argparse
import json
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from vision.backbones.network import described
from vision.backbones.own_file import EXPECTED
from vision.backbones.sources import find_digest, load_tensors
from vision.engines import load_engine, unload_engine
from vision.engines.selection import candidates
from vision.sample import sample_picture
from vision.specs import FeatureSpec, backbone_of

# The smallest member of each family.
SMALLEST = (
    *("vgg16", "mobilenet_v3_small", "convnext_tiny", "mobilenet", "efficientnet_v2_b0", "xception", "resnet50_v2"),
    *("mobilenet_v2", "efficientnet_b0", "densenet121", "inception_v3", "nasnet_mobile", "resnet101"),
    "inception_resnet_v2",
)


def space(name: str, size: int) -> FeatureSpec:
    spec = described(FeatureSpec("", name, size), "random")
    digest = find_digest(spec, "random", Path("no-memo"))
    return FeatureSpec(**spec.record() | {"weights": digest})


def measure(name: str, size: int, seconds: float) -> dict:
    """Distance and rate by engine."""
    spec, found = space(name, size), {}
    for engine in candidates(spec):
        loaded = load_engine(engine, spec, "random", 1)
        found[engine] = {"fallback": loaded.fallback, "images_per_second": round(rate(loaded, seconds), 2)}
        if not backbone_of(name).is_described:
            expected = load_tensors(spec, "random")[EXPECTED][0]
            error = loaded.features(sample_picture(size)[None]) - expected
            found[engine]["distance"] = float(np.linalg.norm(error) / np.linalg.norm(expected))
        del loaded
        unload_engine()
    return found


def rate(engine, seconds: float) -> float:
    """Images per second of CPU time, which other work on the machine does not change."""
    batch = np.repeat(sample_picture(engine.spec.image_size)[None], engine.batch_size, axis=0)
    engine.features(batch)
    images, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        engine.features(batch)
        images += len(batch)
    return images / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(SMALLEST)}")
    parser.add_argument("--seconds", type=float, default=5.0, help="CPU time per rate")
    parser.add_argument("--size", type=int, default=224, help="side of the pictures in pixels")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.names or list(SMALLEST)
    if given.one:
        print(json.dumps(measure(names[0], given.size, given.seconds)))
        return
    found = {}
    for name in names:
        command = [sys.executable, __file__, name, "--size", str(given.size), "--seconds", str(given.seconds), "--one"]
        done = subprocess.run(command, capture_output=True, text=True)
        found[name] = json.loads(done.stdout.splitlines()[-1]) if not done.returncode else done.stderr.splitlines()[-1]
        print(name, found[name], flush=True)
    libraries = {library: version(library) for library in ("keras", "tensorflow", "openvino")}
    print(json.dumps({"backbones": found, "size": given.size, "seconds": given.seconds, "libraries": libraries}))


if __name__ == "__main__":
    main()
