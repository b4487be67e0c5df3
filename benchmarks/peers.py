"""Run one alternative to our extraction (a peer) once. The last line is one JSON object.

    python benchmarks/peers.py PEER --photos FOLDER --weights vgg16_notop.weights.h5 --out FOLDER

PEER is loop, directory, onnxruntime, openvino, openvino_native or ray. benchmarks/peers/ implements each as its users would write it.

`--null` replaces the network by 32x32 block means, for directory, ray and pool. This leaves listing, decoding,
resizing, writing and orchestration. `--engine-only` infers pixels in memory, with the same processes and threads, and
writes nothing. `--check N` then compares N outputs with Keras' own VGG16.

The steady rate counts images from the warm moment, when each process has finished its first batches, until every file
is fsynced. Defaults are the best settings found on two cores.
"""

import time

BEGAN = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from importlib import import_module, metadata  # noqa: E402
from pathlib import Path  # noqa: E402

sys.path.insert(1, str(Path(__file__).parents[1]))  # for vision.backbones.weights; sys.path[0] holds the package peers

PEERS = {  # name → (function, packages whose versions matter)
    "loop": ("peers.keras_ways:loop", "tensorflow keras pillow numpy"),
    "directory": ("peers.keras_ways:directory", "tensorflow keras numpy"),
    "onnxruntime": ("peers.graphs:onnxruntime", "onnxruntime onnx pillow numpy"),
    "openvino": ("peers.graphs:openvino", "openvino onnx pillow numpy"),
    "openvino_native": ("peers.graphs:openvino_native", "openvino onnx pillow numpy"),
    "ray": ("peers.ray_data:ray_data", "ray tensorflow keras pyarrow pillow numpy"),
}
NULL_PEERS = {
    "directory": ("peers.keras_ways:null_directory", "tensorflow keras numpy"),
    "ray": ("peers.ray_data:null_ray_data", "ray pyarrow pillow numpy"),
    "pool": ("peers.processes:null_pool", "pillow numpy"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=sorted({*PEERS, *NULL_PEERS}))
    parser.add_argument("--photos", type=Path, required=True, help="class folders, or train/ with class folders")
    parser.add_argument("--weights", type=Path, default=os.environ.get("VGG16_WEIGHTS"))
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--count", type=int, default=400, help="the first so many photos, classes in turn; 0: all")
    parser.add_argument("--null", action="store_true", help="block means instead of a network")
    parser.add_argument("--engine-only", action="store_true", help="pixels in memory, nothing written")
    parser.add_argument("--check", type=int, default=0, metavar="N", help="compare N outputs with Keras")
    parser.add_argument("--batch", type=int, help="instead of the peer's best")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--variant", choices=["predict_on_batch"], help="loop without what predict sets up for each call"
    )
    given = parser.parse_args()
    if given.peer not in (NULL_PEERS if given.null else PEERS):
        parser.error(f"{given.peer} has no run {'with' if given.null else 'without'} --null")
    if not given.null and not given.weights:
        parser.error("--weights (or VGG16_WEIGHTS) says where the weights are")
    if given.null and (given.engine_only or given.check):
        parser.error("--null has no network to measure alone or to compare")

    from peers.photos import first_photos, largest_distance

    photos = first_photos(given.photos, given.count)
    given.out.mkdir(parents=True, exist_ok=True)
    if any(given.out.iterdir()):
        parser.error(f"--out: {given.out} is not empty")
    place, packages = (NULL_PEERS if given.null else PEERS)[given.peer]
    module, function = place.split(":")
    report = getattr(import_module(module), function)(photos, given)
    report = {"peer": given.peer, "null": given.null, "images": len(photos)} | report
    report |= {
        "seconds": time.perf_counter() - BEGAN,
        "versions": {name: metadata.version(name) for name in packages.split()},
    }
    if given.check:
        report["largest_relative_l2"] = largest_distance(given.out, photos, given.weights, given.check)
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
