"""The VGG family on MNN. Its 3x3 convolutions use Winograd's algorithm, at twice TensorFlow's rate on a CPU.

S. Winograd, "Arithmetic complexity of computations" (1980); A. Lavin and S. Gray, "Fast algorithms for convolutional
neural networks" (2015). This module builds the network from the weights. It does not use MNN's converter, which sends
usage data to its makers.
"""

import logging
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from vision.backbones import vgg_reference as vgg
from vision.backbones.preprocessing import preprocessed
from vision.backbones.weights import tensors_digest
from vision.backbones.weights_file import Tensors
from vision.engines.facts import builds
from vision.engines.networks import kept_network
from vision.engines.serial import SerialEngine
from vision.specs import FeatureSpec, backbone_of

logger = logging.getLogger(__name__)

# MNN multiplies 24 tiles at a time (48 with AVX-512). It adds up the remaining tiles in another order, which changes
# the last digits. In a multiple of 24 images no tile remains.
TILES_AT_A_TIME = (24, 48)
# Measured at 224 pixels: batches of 8 to 24 images are equally fast, and single images slower; 24 images take 1.1 GB.
# Above 320 pixels an image has so many tiles (16 of 6x6 in the smallest maps) that no other image shares its remaining ones.
PIXELS_A_BATCH = 24 * 320 * 320

# MNN's hint of the memory for Winograd's algorithm decides the size of the tiles. Measured: with large tiles the features
# are 1e-4 from the reference and the rate is highest; with small ones 1e-6, at two thirds of the rate.
WINOGRAD_MEMORY_HINT = 3
LARGE_TILES, SMALL_TILES = 3, 1


class MnnEngine(SerialEngine):
    """A VGG as one MNN session.

    A feature depends on its image alone, to the last bit: spare places fill the end of a batch, where MNN adds in another
    order. Raises ImportError if MNN is not installed, RuntimeError if MNN cannot run the network.
    """

    distributions = ("MNN",)
    fixed_mb = 700.0
    bytes_a_pixel = 516.0  # input and output of the second convolution: twice 64 float32 channels

    @staticmethod
    def usual_batch(spec: FeatureSpec) -> int:
        # With 24, the number found on every machine so far. A machine with 48 fills twice as much.
        return max(1, min(TILES_AT_A_TIME[0], PIXELS_A_BATCH // spec.image_size**2))

    @staticmethod
    def obstacle(spec: FeatureSpec) -> str:
        """Why MNN cannot compute these features here; empty if it can."""
        if not backbone_of(spec.backbone).is_vgg:
            return f"computes only the VGG family, not {spec.backbone}"
        if spec.precision != "float32":
            return f"computes in float32, not in {spec.precision}"
        if find_spec("MNN") is None:
            return "is not installed: pip install -c constraints.txt -e '.[fast]'"
        return ""

    def __init__(self, spec: FeatureSpec, tensors: Tensors, threads: int, before: str | None = None):
        import MNN

        super().__init__(spec, tensors, threads, before)
        self._mnn = MNN
        self.name = f"mnn {version('MNN')}"
        # The digest of what is given, which takes 50 ms: a cache must not depend on what a caller calls it.
        record = {"weights": tensors_digest(tensors), "image_size": spec.image_size, "before": before}
        data = kept_network(
            record, ".mnn", builds(("MNN",)), lambda: _converted(vgg.parted(tensors, before)[0], spec.image_size)
        )
        with TemporaryDirectory() as folder:
            path = Path(folder) / "network.mnn"
            path.write_bytes(data)
            self._network = MNN.Interpreter(str(path))
        tiles = SMALL_TILES if spec.dtype == "float32" else LARGE_TILES
        self._network.setSessionHint(WINOGRAD_MEMORY_HINT, tiles)
        self._session = self._network.createSession({"backend": "CPU", "precision": "high", "numThread": threads})
        whole = TILES_AT_A_TIME[0]
        self.adopt({"whole": whole, "spare": whole if whole <= self._room else 1})  # until they are measured

    def measure(self) -> dict[str, int]:
        whole, spare = self._exact_shapes(self._room)
        return {"whole": whole, "spare": spare}

    def adopt(self, measured: Mapping[str, int]) -> None:
        self._whole, self._spare = measured["whole"], measured["spare"]
        self.batch_size = min(self._whole, self._room)

    @property
    def _room(self) -> int:
        """The largest batch that fits in memory."""
        return max(1, PIXELS_A_BATCH // self.spec.image_size**2)

    def _features(self, pixels: np.ndarray) -> np.ndarray:
        starts = range(0, len(pixels), self.batch_size)
        return np.concatenate([self._batch(pixels[start : start + self.batch_size]) for start in starts])

    def _batch(self, pixels: np.ndarray) -> np.ndarray:
        count = len(pixels)
        if count % self._whole:
            count = min(count + self._spare, -(-count // self._whole) * self._whole)
        return self._run(pixels, count)[: len(pixels)]

    def _exact_shapes(self, room: int) -> tuple[int, int]:
        """The number of images that leaves no tile over, and the spare places that any other batch needs at its end.

        Both depend on the processor and on MNN's tiles, so they are measured. room: the largest batch that fits in memory.
        """
        size = self.spec.image_size
        picture = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
        for whole in TILES_AT_A_TIME:
            if room < whole:
                return whole, 1
            found = self._run(np.repeat(picture, whole, axis=0), whole)
            if (found == found[0]).all():
                return whole, 1 if np.array_equal(self._run(picture, 2)[0], found[0]) else whole
        logger.warning("%s: the last digits of a feature depend on the place of its image in the batch", self.name)
        return TILES_AT_A_TIME[0], 0

    def _run(self, pixels: np.ndarray, count: int) -> np.ndarray:
        """The features of `count` images; those beyond the given pixels are black."""
        shape = (count, 3, self.spec.image_size, self.spec.image_size)
        entry = self._network.getSessionInput(self._session)
        if entry.getShape() != shape:
            self._network.resizeTensor(entry, shape)
            self._network.resizeSession(self._session)
        values = np.zeros(shape, np.float32)
        values[: len(pixels)] = preprocessed(pixels, self.spec).transpose(0, 3, 1, 2)
        entry.copyFrom(self._tensor(values))
        if self._network.runSession(self._session):
            raise RuntimeError(f"{self.name} could not run a batch of {count} images")
        outcome = self._network.getSessionOutput(self._session)
        host = self._tensor(np.empty(outcome.getShape(), np.float32))
        outcome.copyToHostTensor(host)
        maps = np.array(host.getNumpyData()).reshape(outcome.getShape()).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(vgg.pooled(maps, self.spec) if self.before is None else maps)

    def _tensor(self, values: np.ndarray):
        """An MNN tensor with a copy of `values`, (n, channels, height, width)."""
        caffe = self._mnn.Tensor_DimensionType_Caffe
        return self._mnn.Tensor(values.shape, self._mnn.Halide_Type_Float, values, caffe)


def _converted(tensors: Tensors, size: int) -> bytes:
    """The network as a file of MNN. The weights are parameters, because MNN uses no Winograd for inputs."""
    from MNN import expr, nn

    pixels = expr.placeholder([1, 3, size, size], expr.NCHW, expr.float)
    maps = expr.convert(pixels, expr.NC4HW4)
    for block in vgg.blocks(tensors):
        for kernel, bias in block:
            *sides, inputs, outputs = kernel.shape
            layer = nn.conv(inputs, outputs, sides, padding_mode=expr.SAME)
            weights = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
            layer.load_parameters(
                [expr.const(array, list(array.shape), expr.NCHW, expr.float) for array in (bias, weights)]
            )
            layer.train(False)
            maps = expr.relu(layer.forward(maps))
        maps = expr.max_pool(maps, [2, 2], [2, 2])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.mnn"
        expr.save([expr.convert(maps, expr.NCHW)], str(path))
        return path.read_bytes()
