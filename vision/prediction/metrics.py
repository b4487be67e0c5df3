"""What probabilities of labelled images say about a head: accuracy, loss, confusion, calibration, and a comparison of two."""

from dataclasses import dataclass


import numpy as np

from vision.training.evaluation import precision_and_recall, wilson_interval

SMALLEST_PROBABILITY = 1e-7  # Keras clips there, so that one wrong certainty costs 16 nats and not infinity
BINS = 10


@dataclass(frozen=True)
class Bin:
    """Images whose predicted class has a probability within a range. confidence: their mean probability. accuracy: share of correct ones."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class ClassScores:
    """One class. f1: the harmonic mean of precision and recall. None if it would divide by zero."""

    images: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Measured:
    """The figures of a head on labelled images.

    hits: number of correct predictions. interval: 95 % interval of the accuracy (Wilson 1927). log_loss: mean of -ln(probability of the true
    class), in nats. confusion: (classes, classes) int64, the true class in rows. calibration_error: the expected calibration
    error over BINS equal ranges of the probability of the predicted class (Guo et al. 2017, "On Calibration of Modern Neural
    Networks", equation 3). bins: the ranges that have images.
    """

    images: int
    hits: int
    accuracy: float
    interval: tuple[float, float]
    log_loss: float
    calibration_error: float
    confusion: np.ndarray
    classes: tuple[ClassScores, ...]
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Compared:
    """Two heads on the same images. only_first, only_second: images that only one of them predicts correctly.

    p_value: of McNemar's exact test (McNemar 1947): the probability of so uneven a split, or a more uneven one, if both are equally good.
    """

    only_first: int
    only_second: int
    p_value: float


def measure(labels: np.ndarray, probabilities: np.ndarray) -> Measured:
    """The figures of (n,) labels and (n, classes) float32 probabilities, n at least 1."""
    count = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    hits = int(np.trace(confusion))
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    bins = _bins(probabilities.max(axis=1).astype(np.float64), predicted == labels)
    return Measured(
        images=len(labels),
        hits=hits,
        accuracy=hits / len(labels),
        interval=wilson_interval(hits, len(labels)),
        log_loss=float(-np.log(np.clip(own, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)).mean()),
        calibration_error=sum(each.images * abs(each.accuracy - each.confidence) for each in bins) / len(labels),
        confusion=confusion,
        classes=tuple(_class_scores(confusion)),
        bins=bins,
    )


def _class_scores(confusion: np.ndarray) -> list[ClassScores]:
    images = confusion.sum(axis=1).tolist()
    return [
        ClassScores(number, precision, recall, _f1(precision, recall))
        for number, (precision, recall) in zip(images, precision_and_recall(confusion), strict=True)
    ]


def _f1(precision: float | None, recall: float | None) -> float | None:
    if precision is None or recall is None or not precision + recall:
        return None
    return 2 * precision * recall / (precision + recall)


def _bins(confidence: np.ndarray, is_right: np.ndarray) -> tuple[Bin, ...]:
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    found = []
    for place in np.unique(places).tolist():
        here = places == place
        mean, share = float(confidence[here].mean()), float(is_right[here].mean())
        found.append(Bin(place / BINS, (place + 1) / BINS, int(here.sum()), mean, share))
    return tuple(found)


def compare(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> Compared:
    """Compare two heads by their (n, classes) probabilities of the same images."""
    is_right, is_right_too = (probabilities.argmax(axis=1) == labels for probabilities in (first, second))
    ours, theirs = int((is_right & ~is_right_too).sum()), int((~is_right & is_right_too).sum())
    return Compared(ours, theirs, mcnemar(ours, theirs))


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test: a fair coin decides each image on which the two heads differ."""
    from scipy.stats import binomtest

    differing = only_first + only_second
    return float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0
