"""Which engine is the fastest on this CPU? Runs engines alone, on pixels in memory. The last line is one JSON object.

    python benchmarks/engines.py --photos FOLDER --weights vgg16_notop.weights.h5

Each engine runs in turn, in one single-threaded process per core, for several rounds. The result is the median of the
summed rates, and the relative L2 distance of one photo's features from the plain reference. `mnn` and `tensorflow` are
ours. `xla` is TensorFlow compiled by XLA, and `ncnn` is the other library with Winograd's algorithm; the pipeline uses
neither. extraction.py measures the peers' engines. `pip install -c constraints.txt -e '.[bench]'` installs the
requirements.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).parent
sys.path.insert(0, str(BENCHMARKS.parent))

from extraction import middle, say  # noqa: E402
from peers.photos import first_photos  # noqa: E402

from vision.backbones import vgg_reference as vgg  # noqa: E402
from vision.backbones.preprocessing import preprocessed  # noqa: E402
from vision.backbones.weights_file import Tensors, read_weights  # noqa: E402
from vision.pixels.decode import decode  # noqa: E402
from vision.specs import BACKBONES, FeatureSpec  # noqa: E402
from workers.devices import available_cores  # noqa: E402

ENGINES = ("mnn", "ncnn", "tensorflow", "xla")


class NcnnEngine:
    """VGG on ncnn, one image at a time, in float32."""

    batch_size = 1

    def __init__(self, spec: FeatureSpec, tensors: Tensors, threads: int):
        import ncnn

        self.ncnn, self.spec = ncnn, spec
        self.net = ncnn.Net()
        self.net.opt.num_threads = threads
        self.net.opt.use_winograd_convolution = True
        self.net.opt.use_fp16_packed = self.net.opt.use_fp16_storage = self.net.opt.use_fp16_arithmetic = False
        self.net.opt.use_bf16_storage = False
        with tempfile.TemporaryDirectory() as folder:
            self.last = _write_ncnn(tensors, Path(folder))
            self.net.load_param(f"{folder}/vgg.param")
            self.net.load_model(f"{folder}/vgg.bin")

    def features(self, pixels: np.ndarray) -> np.ndarray:
        return np.stack([self._one(value) for value in preprocessed(pixels, self.spec)])

    def _one(self, values: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(values.transpose(2, 0, 1))
        extractor = self.net.create_extractor()
        extractor.input("b0", self.ncnn.Mat(planes))  # the Mat does not own its memory, so `planes` must stay alive
        _, found = extractor.extract(self.last)
        return np.array(found).transpose(1, 2, 0)


def _write_ncnn(tensors: Tensors, folder: Path) -> str:
    """Write the network for ncnn: a text of layers, and for each kernel a zero word, OIHW floats and the bias."""
    lines, blob = ["Input input 0 1 b0"], 0
    with open(folder / "vgg.bin", "wb") as file:
        for block in vgg.blocks(tensors):
            for kernel, bias in block:
                size, outputs = kernel.size, kernel.shape[-1]
                lines.append(f"Convolution c{blob} 1 1 b{blob} b{blob + 1} 0={outputs} 1=3 4=1 5=1 6={size} 9=1")
                file.write(b"\0\0\0\0" + np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)).tobytes() + bias.tobytes())
                blob += 1
            lines.append(f"Pooling p{blob} 1 1 b{blob} b{blob + 1} 0=0 1=2 2=2")
            blob += 1
    (folder / "vgg.param").write_text("\n".join(["7767517", f"{len(lines)} {blob + 1}", *lines]) + "\n")
    return f"b{blob}"


def load(name: str, spec: FeatureSpec, tensors: Tensors):
    if name == "ncnn":
        return NcnnEngine(spec, tensors, 1)
    if name == "mnn":
        from vision.engines.mnn_engine import MnnEngine

        mnn = MnnEngine(spec, tensors, 1)
        mnn.adopt(mnn.measure())
        return mnn
    from vision.engines.tensorflow_engine import TensorFlowEngine

    engine = TensorFlowEngine(spec, tensors, 1)
    if name == "xla":
        import tensorflow as tf

        run = engine._run
        engine._run = tf.function(lambda batch: run(batch), jit_compile=True)
    return engine


def rate(name: str, given: argparse.Namespace) -> tuple[float, float]:
    """The summed images per second of warm processes that start together, and the relative L2 error of one photo."""
    context = multiprocessing.get_context("spawn")
    cores = available_cores()
    barrier, answers = context.Barrier(cores), context.Queue()
    children = [context.Process(target=_infer, args=(name, given, number, barrier, answers)) for number in range(cores)]
    for child in children:
        child.start()
    found = [answers.get() for _ in children]
    for child in children:
        child.join()
    return sum(rate for rate, _ in found), max(error for _, error in found)


def _infer(name: str, given: argparse.Namespace, number: int, barrier, answers) -> None:
    tensors = read_weights(BACKBONES["vgg16"], given.weights)
    spec = FeatureSpec("")
    engine = load(name, spec, tensors)
    photos = first_photos(given.photos, given.count)[number :: available_cores()]
    pixels = np.stack([decode(Path(photo.path).read_bytes(), 224) for photo in photos])
    expected = vgg.features(spec, tensors, pixels[:1])
    error = float(np.linalg.norm(engine.features(pixels[:1]) - expected) / np.linalg.norm(expected))
    engine.features(pixels[: engine.batch_size])
    barrier.wait()
    began = time.perf_counter()
    for start in range(0, len(pixels), engine.batch_size):
        engine.features(pixels[start : start + engine.batch_size])
    answers.put((len(pixels) / (time.perf_counter() - began), error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=os.environ.get("PHOTOS"))
    parser.add_argument("--weights", type=Path, default=os.environ.get("VGG16_WEIGHTS"))
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=ENGINES)
    given = parser.parse_args()
    if not (given.photos and given.weights):
        parser.error("--photos and --weights (or PHOTOS and VGG16_WEIGHTS) say where they are")
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in given.engines}
    for number in range(given.rounds):
        for name in given.engines:
            seen[name].append(rate(name, given))
            say(f"round {number + 1}: {name} {seen[name][-1][0]:.2f} images/s, {seen[name][-1][1]:.1e} away")
    result = {
        name: {"images_per_second": middle([r for r, _ in found]), "relative_l2": f"{max(e for _, e in found):.1e}"}
        for name, found in seen.items()
    }
    print(json.dumps({"images": given.count, "rounds": given.rounds, "engines": result}), flush=True)


if __name__ == "__main__":
    main()
