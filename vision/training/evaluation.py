"""Evaluate a head on images that it was not trained on."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np

from vision.batches import Batches, Faults, dataset

LONGEST_REASON = 300  # characters; Keras puts whole configurations into its messages
MISTAKES_KEPT = 24  # as many pictures as a reader looks through


@dataclass(frozen=True)
class Mistake:
    """A sample with a wrong prediction.

    sample: its place in the order of its split. label, predicted: indices of classes. score, own_score: the probability
    that the head gave to the predicted class, and to the true one.
    """

    sample: int
    label: int
    predicted: int
    score: float
    own_score: float


@dataclass(frozen=True)
class Evaluation:
    """Loss, accuracy, confusion matrix and worst mistakes on a split.

    confusion: (classes, classes) int64, with the true class in rows and the predicted one in columns. mistakes: the
    MISTAKES_KEPT with the highest scores, highest first; of equal scores the earlier sample.
    """

    loss: float
    accuracy: float
    confusion: np.ndarray
    mistakes: tuple[Mistake, ...] = ()


def evaluate(model, batches: Batches, shape: tuple[int, ...], dtype: str, num_classes: int) -> Evaluation:
    """Evaluate a compiled head on every readable sample of a split once. Raises what the batches raise."""
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
            worst = _worst([*worst, *worst_mistakes(samples, labels, scores)])
    return Evaluation(loss, accuracy, confusion, tuple(worst))


def evaluate_logits(logits_of: Callable[[np.ndarray], np.ndarray], batches: Batches, num_classes: int) -> Evaluation:
    """Evaluate a head without Keras. logits_of: (n, *shape) features → (n, classes) float64. Raises what the batches raise."""
    confusion, losses = np.zeros((num_classes, num_classes), np.int64), 0.0
    worst: list[Mistake] = []
    for samples, features, labels in batches.numbered():
        if len(samples):
            logits = logits_of(features)
            losses += float(cross_entropy(logits, labels).sum())
            np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
            worst = _worst([*worst, *worst_mistakes(samples, labels, _softmax(logits))])
    count = int(confusion.sum())
    return Evaluation(losses / count, int(np.trace(confusion)) / count, confusion, tuple(worst))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) the loss of each sample in nats, from (n, classes) logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def class_scores(outputs: np.ndarray) -> np.ndarray:
    """(n, classes) probabilities from the outputs of a head.

    A single output column is the probability of the second class. The larger of the two columns is then the class that
    Keras' accuracy predicts: the second above one half.
    """
    return outputs if outputs.shape[1] > 1 else np.concatenate([1 - outputs, outputs], axis=1)


def worst_mistakes(samples: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> list[Mistake]:
    """The MISTAKES_KEPT with the highest scores, highest first. samples: (n,) places of the rows of `scores`."""
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
    """Precision and recall of each class.

    None if it would divide by zero: no sample was predicted as the class, or no sample belongs to it.
    """
    right = np.diag(confusion)
    return [
        (int(hit) / int(taken) if taken else None, int(hit) / int(there) if there else None)
        for hit, taken, there in zip(right, confusion.sum(axis=0), confusion.sum(axis=1), strict=True)
    ]


def f1_score(precision: float | None, recall: float | None) -> float | None:
    """The harmonic mean of precision and recall; None if it would divide by zero."""
    if precision is None or recall is None or not precision + recall:
        return None
    return 2 * precision * recall / (precision + recall)


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share after `hits` of `count` (E. B. Wilson 1927); 0 to 1 if the count is 0."""
    if not count:
        return 0.0, 1.0
    z = 1.959964  # 97.5 % quantile of the normal distribution
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))  # rounding leaves the share inside
