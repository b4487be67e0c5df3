"""Engines: what turns a batch of pixels into features."""

import os
from functools import lru_cache

import numpy as np

from vision.specs import BACKBONES, FeatureSpec
from vision.weights import Tensors, WeightsError, load_weights, tensors_digest

PIXELS_A_BATCH = 16 * 224 * 224  # measured: on CPUs nothing is won above 8 to 16 images of 224 pixels
LARGEST_BATCH = 32


def batch_size_for(image_size: int) -> int:
    """One batch shape for all images of a size, so that features never depend on how many came."""
    return int(np.clip(PIXELS_A_BATCH // image_size**2, 1, LARGEST_BATCH))


class TensorFlowEngine:
    """The Keras backbone as one TensorFlow function of a fixed batch shape.

    threads: CPU threads for one operation. Raises WeightsError where the weights are not those of the
    spec any more.
    """

    def __init__(self, spec: FeatureSpec, weights: str, threads: int):
        # oneDNN is off by default on CPUs without VNNI, where it still doubles the rate (measured).
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import keras
        import tensorflow as tf

        from vision.backbone import build_backbone

        _configure(threads)
        self.name = f"tensorflow {tf.__version__} keras {keras.__version__}"
        self.spec = spec
        self.batch_size = batch_size_for(spec.image_size)
        model = build_backbone(spec, _checked_weights(spec, weights))
        pixels = tf.TensorSpec((self.batch_size, spec.image_size, spec.image_size, 3), tf.uint8)
        self._run = tf.function(lambda batch: model(batch, training=False), input_signature=[pixels])

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """(n, size, size, 3) uint8, n at most `batch_size` → (n, *spec.shape) float32."""
        padded = np.zeros((self.batch_size, *pixels.shape[1:]), np.uint8)
        padded[: len(pixels)] = pixels
        return self._run(padded).numpy()[: len(pixels)].astype(np.float32, copy=False)


def _checked_weights(spec: FeatureSpec, source: str) -> Tensors:
    tensors = load_weights(BACKBONES[spec.backbone], source)
    digest = spec.weights if source == "random" else tensors_digest(tensors)
    if digest != spec.weights:
        raise WeightsError(f"--weights: {source} changed while the run was going on; run again")
    return tensors


@lru_cache(maxsize=1)
def _configure(threads: int) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)


@lru_cache(maxsize=1)
def load_engine(spec: FeatureSpec, weights: str, threads: int) -> TensorFlowEngine:
    """The engine of a spec, warm: built, traced and run once. Kept until another is asked for."""
    engine = TensorFlowEngine(spec, weights, threads)
    engine.features(np.zeros((1, spec.image_size, spec.image_size, 3), np.uint8))
    return engine
