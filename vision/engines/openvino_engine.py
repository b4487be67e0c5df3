"""Any backbone on OpenVINO, in float32, and in bfloat16 and int8 where the processor has instructions for them."""

from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

from vision.backbones import vgg_reference as vgg
from vision.backbones.own_file import EXPECTED
from vision.backbones.weights_file import Tensors
from vision.engines.calibration import activation_ranges
from vision.engines.facts import builds, kept
from vision.engines.keras_export import exported
from vision.engines.openvino_graph import vgg_graph
from vision.engines.openvino_library import load_openvino, new_core
from vision.engines.processor import instructions
from vision.engines.serial import SerialEngine
from vision.specs import FeatureSpec, backbone_of

# Measured with VGG16 at 224 pixels: 16 and 32 images are no faster than 8, and take 0.6 and 1.9 GB more.
PIXELS_A_BATCH = 8 * 224 * 224
LARGEST_BATCH = 32

# Instructions of which one is needed, by their names in Linux. Without them OpenVINO computes the same slower than float32.
# OpenVINO has no bfloat16 on ARM.
NEEDED = {
    "bfloat16": ("avx512_bf16", "amx_bf16"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"),
}


class OpenVinoEngine(SerialEngine):
    """The backbone as one compiled graph with a fixed batch shape.

    Raises ImportError if OpenVINO is not installed, RuntimeError if it cannot run the network.
    """

    distributions = ("openvino",)
    # Measured with VGG16 at 224 pixels in float32: 411 MB with 8 images. Other precisions take less.
    fixed_mb = 300.0
    bytes_a_pixel = 550.0

    @staticmethod
    def usual_batch(spec: FeatureSpec) -> int:
        return int(np.clip(PIXELS_A_BATCH // spec.image_size**2, 1, LARGEST_BATCH))

    @staticmethod
    def obstacle(spec: FeatureSpec) -> str:
        """Why OpenVINO cannot compute these features here; empty if it can."""
        if spec.precision == "mixed_float16":
            return "computes in float32, bfloat16 or int8, not in mixed_float16"
        if spec.precision == "int8" and not backbone_of(spec.backbone).is_vgg:
            return f"computes int8 only for the VGG family, not for {spec.backbone}"
        if find_spec("openvino") is None:
            return "is not installed: pip install -c constraints.txt -e '.[fast]'"
        needed = NEEDED.get(spec.precision, ())
        if needed and not instructions().intersection(needed):
            return (
                f"would emulate {spec.precision}, slower than float32: this processor has none of {', '.join(needed)}"
            )
        return ""

    def __init__(self, spec: FeatureSpec, tensors: Tensors, threads: int, before: str | None = None):
        openvino = load_openvino()
        super().__init__(spec, tensors, threads, before)
        self.name = f"openvino {version('openvino')}"
        self.batch_size = self.usual_batch(spec)
        self._core = new_core()
        self._properties = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if spec.precision == "bfloat16" else "f32",
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # otherwise two processes may choose the same core
        }
        self._is_vgg = backbone_of(spec.backbone).is_vgg
        if self._is_vgg:
            ranges = _kept_ranges(spec, tensors) if spec.precision == "int8" else None
            self._graph = vgg_graph(spec, vgg.parted(tensors, before)[0], ranges)
        else:
            network = exported(spec, tensors)
            self._graph = self._core.read_model(
                network.graph, openvino.Tensor(np.frombuffer(network.weights, np.uint8))
            )
            self._expected = network.expected
        self._compiled_size = 0

    def expected(self, picture: np.ndarray, tensors: Tensors) -> np.ndarray:
        is_known = self._is_vgg or EXPECTED in tensors
        return super().expected(picture, tensors) if is_known else self._expected

    def _features(self, pixels: np.ndarray) -> np.ndarray:
        starts = range(0, len(pixels), self.batch_size)
        maps = np.concatenate([self._batch(pixels[start : start + self.batch_size]) for start in starts])
        return vgg.pooled(maps, self.spec) if self._is_vgg and self.before is None else maps

    def _batch(self, pixels: np.ndarray) -> np.ndarray:
        if self._compiled_size != self.batch_size:
            self._compile()
        padded = np.zeros((self.batch_size, *pixels.shape[1:]), np.uint8)
        padded[: len(pixels)] = pixels
        return self._request.infer({0: padded}, share_inputs=True)[0][
            : len(pixels)
        ].copy()  # the request owns its output

    def _compile(self) -> None:
        size = self.spec.image_size
        self._graph.reshape([self.batch_size, size, size, 3])
        self._request = self._core.compile_model(self._graph, "CPU", self._properties).create_infer_request()
        self._compiled_size = self.batch_size


def _kept_ranges(spec: FeatureSpec, tensors: Tensors) -> list[float]:
    """The ranges for int8 from the cache of this machine, or computed now."""
    values = {name: value for name, value in spec.record().items() if name not in ("pooling", "dtype", "exif")}
    key = {"ranges": values, "builds": builds(("numpy", "pillow"))}
    return kept(key, lambda: {"ranges": activation_ranges(spec, tensors)})["ranges"]
