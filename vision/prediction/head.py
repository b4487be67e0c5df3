"""Load a head to predict with: in numpy where it consists of dense layers, else in Keras."""

from pathlib import Path
from typing import Protocol

import numpy as np

from vision.prediction.dense_head import NotDense, both_sides, read_dense_head
from vision.training.evaluation import class_scores


class PredictingHead(Protocol):
    """A trained head. Threads may share it."""

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(n, *shape) float16 or float32 features → (n, classes) float32, in the order of the head's classes.

        A head that was fine-tuned takes (n, size, size, 3) uint8 pixels instead.
        """


class KerasHead:
    """A head that only Keras computes, for example one that was fine-tuned."""

    def __init__(self, path: Path):
        from vision.training.head_model import load_head

        self._model = load_head(str(path))

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        pixels = features.dtype == np.uint8
        inputs = features if pixels else features.astype(np.float32, copy=False)
        outputs = self._model(inputs, training=False)
        logits = getattr(outputs, "_keras_logits", None)  # set by a last layer's sigmoid or softmax
        if logits is not None and outputs.shape[1] == 1:
            return both_sides(logits.numpy())
        return class_scores(outputs.numpy())


def load_predicting_head(path: Path) -> PredictingHead:
    """The head in a file that Keras saved. Imports Keras only if the head has layers that are not dense.

    Raises HeadError if the file is not a Keras model or contains custom code.
    """
    try:
        return read_dense_head(path)
    except NotDense:
        return KerasHead(path)
