"""The data of a training: the batches that it is given, and the datasets that Keras reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from vision.batches import Batches, Faults, dataset
from vision.training.head import HeadSpec
from vision.training.statistics import balanced_weights


@dataclass(frozen=True)
class TrainingData:
    """What a head is trained on: features of this shape and stored dtype.

    training: shuffled by the seed. in_table_order: the same rows in a fixed order, for the statistics. validation: every
    image once in a fixed order, to evaluate the head that is kept. after_epochs: what each epoch is validated on; the
    spec says on how many batches of it. class_counts: (classes,) number of training samples per class.
    """

    shape: tuple[int, ...]
    dtype: str
    training: Batches
    in_table_order: Batches
    validation: Batches
    after_epochs: Batches
    class_counts: np.ndarray


class Feeds:
    """The datasets of a training, a new one per call of Keras. faults: the errors of batches, which Keras would hide."""

    def __init__(self, spec: HeadSpec, data: TrainingData):
        self.faults = Faults()
        self._data = data
        self._weights = balanced_weights(data.class_counts) if spec.class_weight == "balanced" else None
        self._validation_steps = min(spec.validation_steps or data.after_epochs.steps, data.after_epochs.steps)

    def training(self, first: int, end: int, step: int):
        """The batches from `step` of the epoch `first` up to the epoch `end`."""
        data = self._data
        rows = self.faults.batches(lambda: data.training.batches(first, step, epochs=end - first))
        return dataset(rows, data.shape, data.dtype, self._weights)

    def held_out(self):
        """What an epoch is validated on, always the same."""
        rows = self.faults.batches(self._validation)
        return dataset(rows, self._data.shape, self._data.dtype, steps=self._validation_steps)

    def _validation(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        source = self._data.after_epochs
        if self._validation_steps < source.steps:
            return islice(source.batches(), self._validation_steps)
        return ((features, labels) for _, features, labels in source.numbered())
