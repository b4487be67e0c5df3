"""The Keras backbone on TensorFlow: any backbone, any device."""

import logging

import numpy as np

from vision.backbones.weights_file import Tensors
from vision.engines.serial import SerialEngine
from vision.runtime import prepare_tensorflow
from vision.specs import FeatureSpec

logger = logging.getLogger(__name__)

# Measured: on CPUs more than 8 to 16 images of 224 pixels gain nothing.
PIXELS_A_BATCH = 16 * 224 * 224
LARGEST_BATCH = 32
# Not measured on a GPU. If the memory is too small, the engine halves the batch.
PIXELS_A_GPU_BATCH = 128 * 224 * 224
LARGEST_GPU_BATCH = 1024


def batch_size_for(image_size: int, on_gpu: bool = False) -> int:
    """The batch size for images of a size. It is fixed, so features do not depend on the number of images."""
    pixels, largest = (PIXELS_A_GPU_BATCH, LARGEST_GPU_BATCH) if on_gpu else (PIXELS_A_BATCH, LARGEST_BATCH)
    return int(np.clip(pixels // image_size**2, 1, largest))


class TensorFlowEngine(SerialEngine):
    """The backbone as one TensorFlow function with a fixed batch shape. If memory runs out, the batch size is halved."""

    distributions = ("tensorflow", "keras")
    fixed_mb = 550.0
    bytes_a_pixel = 790.0

    @staticmethod
    def usual_batch(spec: FeatureSpec) -> int:
        return batch_size_for(spec.image_size)

    @staticmethod
    def obstacle(spec: FeatureSpec) -> str:
        """Why TensorFlow cannot compute these features; empty if it can.

        Keras' dtype policy `bfloat16` also rounds weights and sums to 8 bits, which gives other features than OpenVINO's.
        """
        if spec.precision in ("bfloat16", "int8"):
            return f"computes in float32 or mixed_float16, not in {spec.precision}"
        return ""

    def __init__(self, spec: FeatureSpec, tensors: Tensors, threads: int, before: str | None = None):
        super().__init__(spec, tensors, threads, before)
        prepare_tensorflow(threads)
        import keras
        import tensorflow as tf

        from vision.backbones.keras_model import build_backbone

        self.name = f"tensorflow {tf.__version__} keras {keras.__version__}"
        self.batch_size = batch_size_for(spec.image_size, bool(tf.config.list_logical_devices("GPU")))
        model = build_backbone(spec, tensors, before)
        self._out_of_memory = tf.errors.ResourceExhaustedError
        self._run = tf.function(lambda batch: model(batch, training=False))

    def _features(self, pixels: np.ndarray) -> np.ndarray:
        while True:
            try:
                starts = range(0, len(pixels), self.batch_size)
                return np.concatenate([self._padded(pixels[start : start + self.batch_size]) for start in starts])
            except self._out_of_memory:
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2
                logger.warning(
                    "out of memory: batches have %s from now on",
                    "1 image" if self.batch_size == 1 else f"{self.batch_size} images",
                )

    def _padded(self, pixels: np.ndarray) -> np.ndarray:
        padded = np.zeros((self.batch_size, *pixels.shape[1:]), np.uint8)
        padded[: len(pixels)] = pixels
        return self._run(padded).numpy()[: len(pixels)].astype(np.float32, copy=False)
