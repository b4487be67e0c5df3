"""The state of a training, from which it resumes bit for bit.

Keras' BackupAndRestore restores the weights, but neither the position in the data nor the running figures of an epoch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vision.training.statistics import Statistics


class CheckpointError(ValueError):
    """A checkpoint belongs to another training. The training has to start again."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next step depends on.

    epoch, step: of the next step, both counted from 0. arrays: `model/i`, `optimizer/i` and `metrics/i` in Keras' order of
    variables (the model's include the seeds of dropout), `best/i` with the weights of the best epoch so far,
    `statistics/mean` and `statistics/variance`. record: the figures so far, as JSON types; a resumed training extends them.
    """

    epoch: int
    step: int
    arrays: Mapping[str, np.ndarray]
    record: dict[str, Any]

    @property
    def statistics(self) -> Statistics | None:
        """The statistics of the standardisation; None if the head has none."""
        if "statistics/mean" not in self.arrays:
            return None
        return Statistics(self.arrays["statistics/mean"], self.arrays["statistics/variance"])

    @property
    def best_weights(self) -> list[np.ndarray]:
        """The weights of the best epoch so far, in Keras' order."""
        return [array for name, array in self.arrays.items() if name.startswith("best/")]


def state(model, best_weights: list[np.ndarray], statistics: Statistics | None) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a checkpoint, one by one. Each is a view and valid only until the next."""
    for part in ("model", "optimizer", "metrics"):
        for number, variable in enumerate(_variables(model, part)):
            yield f"{part}/{number}", values(variable)
    for number, weights in enumerate(best_weights):
        yield f"best/{number}", weights
    if statistics is not None:
        yield "statistics/mean", statistics.mean
        yield "statistics/variance", statistics.variance


def put_back(model, checkpoint: Checkpoint, *parts: str) -> None:
    """Restore the variables of these parts (`model`, `optimizer`, `metrics`).

    Raises CheckpointError if the model has variables of other shapes.
    """
    for part in parts:
        variables = _variables(model, part)
        names = [name for name in checkpoint.arrays if name.startswith(f"{part}/")]
        found = [np.shape(checkpoint.arrays[name]) for name in names]
        if found != [tuple(variable.shape) for variable in variables]:
            raise CheckpointError(f"the checkpoint has {part} variables of shapes {found}, this training has others")
        for name, variable in zip(names, variables, strict=True):
            variable.assign(checkpoint.arrays[name])


def values(variable) -> np.ndarray:
    """The value of a Keras variable. On a CPU it is a view: an assignment while it is held costs a copy."""
    import keras

    return np.asarray(keras.ops.convert_to_tensor(variable))


def _variables(model, part: str) -> list:
    owners = {"model": model.variables, "optimizer": model.optimizer.variables, "metrics": model.metrics_variables}
    return owners[part]
