"""Suspect labels by confident learning: C. Northcutt, L. Jiang, I. Chuang, JAIR 70 (2021), doi 10.1613/jair.1.12125.

The paper's rules in numpy. The threshold of a class is the mean probability that its own images give to it (equation 2). An
image counts for the most probable of the classes whose thresholds it reaches: the confident joint (equation 1), which is then
calibrated to the number of images of each label (equation 3). Prune by noise rate: of the images with label i that look most
like class j, as many are suspect as the joint expects, those with the largest margin first.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

Blocks = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Suspects:
    """Samples whose label is suspect, the surest first.

    places: (m,) int64. suggested: (m,) int64, the class that each seems to have. score: (m,) float64, from 0.5 to 1 with the
    normalised margin: 1 if the model is sure of the other class. expected: (classes, classes) float64, how many samples of the label
    in the row have the class of the column, by the calibrated joint.
    """

    places: np.ndarray
    suggested: np.ndarray
    score: np.ndarray
    expected: np.ndarray


def find_suspects(blocks: Blocks, labels: np.ndarray, num_classes: int, judged: np.ndarray | None = None) -> Suspects:
    """Rank the labels that out-of-fold probabilities contradict.

    blocks: returns an iterator over places (m,) and probabilities (m, classes), each sample once; it is called twice.
    labels: (n,). judged: (classes,) bool; the others have too few images to be told apart, so their labels are neither
    suspected nor suggested.
    """
    is_judged = np.ones(num_classes, bool) if judged is None else judged
    thresholds = np.where(is_judged, _thresholds(blocks, labels, num_classes), np.inf)
    joint, found = np.zeros((num_classes, num_classes)), [np.empty((4, 0))]
    for places, probabilities in blocks():
        is_known = is_judged[labels[places]]
        places, probabilities = places[is_known], np.where(is_judged, probabilities[is_known], 0)
        own, at = labels[places], np.arange(len(places))
        reaching = np.where(probabilities >= thresholds, probabilities, -1)
        is_sure = reaching.max(axis=1, initial=-1) >= 0
        np.add.at(joint, (own[is_sure], reaching[is_sure].argmax(axis=1)), 1)
        best = probabilities.argmax(axis=1)
        score = (1 + probabilities[at, best] - probabilities[at, own]) / 2
        found.append(np.stack([places, own, best, score])[:, score > 0.5])
    expected = _calibrated(joint, np.bincount(labels, minlength=num_classes))
    return _pruned(np.concatenate(found, axis=1), expected)


def _thresholds(blocks: Blocks, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(classes,) the mean probability of each class over the samples with that label; infinite without samples."""
    sums, counts = np.zeros(num_classes), np.bincount(labels, minlength=num_classes)
    for places, probabilities in blocks():
        own = labels[places]
        np.add.at(sums, own, probabilities[np.arange(len(places)), own])
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def _calibrated(joint: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The joint, each row scaled to the number of samples with its label."""
    return joint * (counts / np.maximum(joint.sum(axis=1), 1))[:, None]


def _pruned(found: np.ndarray, expected: np.ndarray) -> Suspects:
    """The first `expected` candidates of each pair of label and class. found: (4, m) place, label, class and score."""
    found = found[:, np.lexsort((found[0], -found[3]))]
    pairs = found[1] * len(expected) + found[2]
    order = np.argsort(pairs, kind="stable")
    _, first, counts = np.unique(pairs[order], return_index=True, return_counts=True)
    rank = np.empty(len(pairs), np.int64)
    rank[order] = np.arange(len(pairs)) - np.repeat(first, counts)
    labels, classes = found[1].astype(np.int64), found[2].astype(np.int64)
    is_suspect = rank < np.rint(expected[labels, classes])
    places, score = found[0].astype(np.int64), found[3]
    return Suspects(places[is_suspect], classes[is_suspect], score[is_suspect], expected)
