"""How a head does on images that it was not trained on."""

from dataclasses import dataclass

import numpy as np

from vision.batches import Batches, dataset


@dataclass(frozen=True)
class Evaluation:
    """Loss and accuracy over a split, and which class was taken for which.

    confusion: (classes, classes) int64, rows the true class, columns the predicted one.
    """

    loss: float
    accuracy: float
    confusion: np.ndarray


def evaluate(model, batches: Batches, shape: tuple[int, ...], dtype: str, num_classes: int) -> Evaluation:
    """Ask a compiled head about every sample of a split once."""
    rows = dataset(batches.batches, batches.steps, shape, dtype)
    loss, accuracy = model.evaluate(rows, verbose=0)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for features, labels in rows:
        scores = model.predict_on_batch(features)
        # One column is the probability of the second class; Keras' accuracy counts it from above one half.
        predicted = scores[:, 0] > 0.5 if scores.shape[1] == 1 else scores.argmax(axis=1)
        np.add.at(confusion, (labels.numpy(), predicted.astype(int)), 1)
    return Evaluation(loss, accuracy, confusion)


def load_head(path: str):
    """A saved head, read in Keras' safe mode."""
    import keras

    return keras.saving.load_model(path, safe_mode=True)


def precision_and_recall(confusion: np.ndarray) -> list[tuple[float | None, float | None]]:
    """Of each class: which part of what was taken for it is it, and which part of it was found.

    None where there is nothing to divide by: nothing was taken for the class, or no sample is of it.
    """
    right = np.diag(confusion)
    return [
        (int(hit) / int(taken) if taken else None, int(hit) / int(there) if there else None)
        for hit, taken, there in zip(right, confusion.sum(axis=0), confusion.sum(axis=1), strict=True)
    ]
