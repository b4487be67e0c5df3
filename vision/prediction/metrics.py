"""What probabilities of labelled images say about a head: accuracy, loss, confusion, calibration, and a comparison of two."""

from dataclasses import dataclass

import numpy as np

from vision.training.evaluation import f1_score, precision_and_recall, wilson_interval

# The smallest normal float32: 87 nats. Keras computes its loss from logits, so a certain mistake costs more than 16 nats there.
SMALLEST_PROBABILITY = 1.2e-38
BINS = 10
SIGNIFICANCE = 0.05  # a smaller p-value counts as evidence


@dataclass(frozen=True)
class Bin:
    """Images whose predicted class has a probability within a range.

    confidence: their mean probability. accuracy: the share of correct ones.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class. None if one would divide by zero."""

    images: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Measured:
    """The figures of a head on labelled images.

    correct: number of correct predictions. interval: the 95 % interval of the accuracy (Wilson 1927). log_loss: mean of
    -ln(probability of the true class), in nats. impossible: number of images whose true class has probability 0; each counts
    as SMALLEST_PROBABILITY. confusion: (classes, classes) int64, with the true class in rows. calibration_error: the expected
    calibration error over BINS equal ranges (Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3).
    bins: the ranges that have images.
    """

    images: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    log_loss: float
    impossible: int
    calibration_error: float
    confusion: np.ndarray
    classes: tuple[ClassScores, ...]
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Compared:
    """Two heads on the same images. only_first, only_second: images that only one of them predicts correctly.

    p_value: of McNemar's exact test (McNemar 1947): the probability of such an uneven split, or a more uneven one, if both heads
    are equally good.
    """

    images: int
    only_first: int
    only_second: int
    p_value: float

    @property
    def is_different(self) -> bool:
        """Whether there is evidence that one head is better."""
        return self.p_value < SIGNIFICANCE

    def verdict(self, first: str, second: str) -> str:
        """What the comparison means, in one sentence. first, second: the names of the heads."""
        on = f"on {self.images:,} {'image' if self.images == 1 else 'images'}"
        if not self.only_first + self.only_second:
            return f"heads {first} and {second} are right and wrong {on} alike: no difference"
        counted = (
            f"head {first} is right on {self.only_first:,} that {second} misses, "
            f"{second} on {self.only_second:,} that {first} misses"
        )
        better = first if self.only_first > self.only_second else second
        meaning = f"evidence that head {better} is better" if self.is_different else "no evidence of a difference"
        return f"{counted}: p {_in_words(self.p_value)}, {meaning} {on}"


def measure(labels: np.ndarray, probabilities: np.ndarray) -> Measured:
    """The figures of (n,) labels and (n, classes) float32 probabilities, n at least 1."""
    count = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    correct = int(np.trace(confusion))
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    bins = _bins(probabilities.max(axis=1).astype(np.float64), predicted == labels)
    return Measured(
        images=len(labels),
        correct=correct,
        accuracy=correct / len(labels),
        interval=wilson_interval(correct, len(labels)),
        log_loss=abs(float(np.log(np.maximum(own, SMALLEST_PROBABILITY)).mean())),
        impossible=int((own == 0).sum()),
        calibration_error=sum(each.images * abs(each.accuracy - each.confidence) for each in bins) / len(labels),
        confusion=confusion,
        classes=tuple(
            ClassScores(images, precision, recall, f1_score(precision, recall))
            for images, (precision, recall) in zip(
                confusion.sum(axis=1).tolist(), precision_and_recall(confusion), strict=True
            )
        ),
        bins=bins,
    )


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
    return Compared(len(labels), ours, theirs, mcnemar(ours, theirs))


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test: a fair coin decides each image on which the two heads differ."""
    from scipy.stats import binomtest

    differing = only_first + only_second
    return float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0


def _in_words(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.{2 if p_value >= 0.1 else 3}f}"
