"""Early stopping that keeps the weights of the best epoch."""

import math
from typing import Any

import numpy as np

from vision.training.checkpoint import Checkpoint, values


def keep_best(patience: int, checkpoint: Checkpoint | None, start: dict[str, float] | None):
    """Keras' early stopping. It allocates the best weights at the beginning, so that no later epoch needs more memory.

    start: the figures that an epoch has to improve on; None if the first finite ones do.
    """
    import keras

    before_any = {"best": start["val_loss"], "best_epoch": -1} if start else {}

    class KeepBest(keras.callbacks.EarlyStopping):
        best_weights: list[np.ndarray] | None = None

        def on_train_begin(self, logs=None):
            if self.best_weights is not None:
                return  # the second `fit` of a resumed training
            super().on_train_begin(logs)
            self.best_weights = checkpoint.best_weights if checkpoint else self.model.get_weights()
            for name, value in (checkpoint.record["best"] if checkpoint else before_any).items():
                setattr(self, name, value)

        def on_epoch_end(self, epoch, logs=None):
            if not math.isfinite(logs["val_loss"]):
                return  # Keras would take it for the best if it is the first
            super().on_epoch_end(epoch, logs)
            if self.best_epoch == epoch:
                for kept, variable in zip(self.best_weights or [], self.model.weights, strict=True):
                    np.copyto(kept, values(variable))

        @property
        def record(self) -> dict[str, Any]:
            return {name: getattr(self, name) for name in ("best", "wait", "best_epoch", "stopped_epoch")}

    return KeepBest("val_loss", patience=patience)  # `train` restores the best weights after the last `fit`
