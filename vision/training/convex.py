"""Train a logistic head: pool the features once, let a solver find the weights, and evaluate the head."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vision.batches import Batches
from vision.training.course import Pace
from vision.training.evaluation import evaluate_logits
from vision.training.folds import FOLDS, stratified_folds
from vision.training.head import HeadSpec
from vision.training.head_model import build_head
from vision.training.logistic import MOST_TRIED, fit
from vision.training.loop import Trained, reported
from vision.training.pooling import parts, pool
from vision.training.statistics import Statistics, balanced_weights, feature_statistics

# The pooled features are in memory once; the solver adds a fifth of that. At 1,024 columns they are 65,536 images (7 CPU seconds).
LARGEST_BYTES = 256 * 2**20
BLOCK = 4096  # rows that are converted at a time


@dataclass(frozen=True)
class SolverData:
    """What a logistic head is trained on: features of this shape.

    training: every sample once, in a fixed order. images: (n,) uint64 from the digest of each of these samples' images.
    validation: every image once. class_counts: (classes,) number of training samples per class. left_out: number of training
    samples beyond `most_samples`.
    """

    shape: tuple[int, ...]
    training: Batches
    images: np.ndarray
    validation: Batches
    class_counts: np.ndarray
    left_out: int = 0


def columns(spec: HeadSpec, shape: tuple[int, ...]) -> int:
    """How many numbers per image the head has after pooling."""
    return shape[-1] * parts(shape, spec.head_pooling)


def most_samples(spec: HeadSpec, shape: tuple[int, ...]) -> int:
    """How many samples the solver takes at most."""
    return LARGEST_BYTES // (4 * columns(spec, shape))


def train_logistic(
    spec: HeadSpec, data: SolverData, seed: int, report: Callable[[dict], None] = lambda record: None
) -> Trained:
    """Fit a `logistic` head. The result has no history, and `regularization` says how the strength was chosen.

    seed: only of the unused initial weights. report: receives the reading of the features as epoch 0, and the fits of the
    cross-validation as steps of epoch 1.
    """
    began, done, pace = time.perf_counter(), 0, Pace(report)
    features, labels = _pooled(spec, data, report)
    statistics = _standardized(features, parts(data.shape, spec.head_pooling)) if spec.standardize else None
    weights = np.ones(len(labels))
    if spec.class_weight == "balanced":
        weights = balanced_weights(data.class_counts)[labels]

    def fitted() -> None:
        nonlocal done
        done += 1
        pace.report({"epoch": 1, "epochs": 1, "step": done, "steps": FOLDS * MOST_TRIED})

    folds = stratified_folds(labels, data.images)
    found = fit(features, labels, weights, folds, len(spec.classes), spec.l2, fitted)
    model = build_head(spec, data.shape, statistics, seed)
    kernel, bias = found.kernel.astype(np.float32), found.bias.astype(np.float32)

    def logits(maps: np.ndarray) -> np.ndarray:
        pooled = pool(maps, spec.head_pooling)
        if statistics is not None:
            _standardize(pooled, statistics)
        return (pooled @ kernel + bias).astype(np.float64)

    if len(spec.classes) == 2:
        model.layers[-1].set_weights([kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]])
    else:
        model.layers[-1].set_weights([kernel, bias])
    validation = evaluate_logits(logits, data.validation, len(spec.classes))
    seconds = time.perf_counter() - began
    chosen = found.record(len(labels), data.left_out)
    return Trained(model, (), (), validation, len(labels), seconds, regularization=chosen)


def _pooled(spec: HeadSpec, data: SolverData, report: Callable[[dict], None]) -> tuple[np.ndarray, np.ndarray]:
    """The features (n, columns) float32 and labels (n,) of all samples, in their order."""
    features = np.empty((len(data.images), columns(spec, data.shape)), np.float32)
    labels, at = np.empty(len(features), np.int64), 0
    for batch, own in reported(data.training, report):
        features[at : at + len(own)], labels[at : at + len(own)] = pool(batch, spec.head_pooling), own
        at += len(own)
    return features, labels


def _standardized(features: np.ndarray, count: int) -> Statistics:
    """Standardise the features in place, and return the statistics."""
    statistics = feature_statistics(_blocks(features), count)
    for block in _blocks(features):
        _standardize(block, statistics)
    return statistics


def _standardize(features: np.ndarray, statistics: Statistics) -> None:
    features -= statistics.mean.astype(np.float32)
    features /= np.sqrt(statistics.variance.astype(np.float32))


def _blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    return (features[at : at + BLOCK] for at in range(0, len(features), BLOCK))
