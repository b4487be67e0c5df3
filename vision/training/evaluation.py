"""How a head does on images that it was not trained on."""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from vision.batches import Batches, Faults, dataset

LONGEST_REASON = 300  # Keras puts whole configurations into its messages
MISTAKES_KEPT = 24  # as many pictures as one looks through


@dataclass(frozen=True)
class Mistake:
    """A sample that was taken for another class.

    sample: its place in the order of its split. label, predicted: indices of classes. score, own_score: the
    probability that the head gave to the predicted class, and to the right one.
    """

    sample: int
    label: int
    predicted: int
    score: float
    own_score: float


@dataclass(frozen=True)
class Evaluation:
    """Loss and accuracy over a split, which class was taken for which, and the worst mistakes.

    confusion: (classes, classes) int64, rows the true class, columns the predicted one. mistakes: the
    MISTAKES_KEPT with the highest score, the highest first, of equal ones the earlier sample.
    """

    loss: float
    accuracy: float
    confusion: np.ndarray
    mistakes: tuple[Mistake, ...] = ()


def evaluate(model, batches: Batches, shape: tuple[int, ...], dtype: str, num_classes: int) -> Evaluation:
    """Ask a compiled head once about every sample of a split that can be read. Raises what the batches raise."""
    faults = Faults()
    pairs = faults.batches(lambda: ((features, labels) for _, features, labels in batches.numbered()))
    with faults.as_raised():
        loss, accuracy = model.evaluate(dataset(pairs, shape, dtype, steps=batches.steps), verbose=0)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    worst: list[Mistake] = []
    for samples, features, labels in batches.numbered():
        if len(samples):
            scores = class_scores(model.predict_on_batch(features.astype(np.float32, copy=False)))
            np.add.at(confusion, (labels, scores.argmax(axis=1)), 1)
            worst = _worst([*worst, *_mistakes(samples, labels, scores)])
    return Evaluation(loss, accuracy, confusion, tuple(worst))


def class_scores(outputs: np.ndarray) -> np.ndarray:
    """(n, classes) probabilities from what a head gives.

    One column is the probability of the second class. Keras' accuracy takes that class from above one half, and so
    does the largest of the two.
    """
    return outputs if outputs.shape[1] > 1 else np.concatenate([1 - outputs, outputs], axis=1)


def _mistakes(samples: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> list[Mistake]:
    """The worst mistakes of a batch."""
    predicted = scores.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-scores[wrong, predicted[wrong]], kind="stable")[:MISTAKES_KEPT]]
    return [
        Mistake(int(samples[at]), int(own), int(other), float(scores[at, other]), float(scores[at, own]))
        for at, own, other in zip(wrong, labels[wrong], predicted[wrong], strict=True)
    ]


def _worst(mistakes: list[Mistake]) -> list[Mistake]:
    return sorted(mistakes, key=lambda mistake: (-mistake.score, mistake.sample))[:MISTAKES_KEPT]


def precision_and_recall(confusion: np.ndarray) -> list[tuple[float | None, float | None]]:
    """Of each class: which part of what was taken for it is it, and which part of it was found.

    None where there is nothing to divide by: nothing was taken for the class, or no sample is of it.
    """
    right = np.diag(confusion)
    return [
        (int(hit) / int(taken) if taken else None, int(hit) / int(there) if there else None)
        for hit, taken, there in zip(right, confusion.sum(axis=0), confusion.sum(axis=1), strict=True)
    ]


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `hits` of `count` were seen (E. B. Wilson 1927); 0 to 1 where none was."""
    if not count:
        return 0.0, 1.0
    z = 1.959964  # 97.5 % of a normal distribution lie below
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
