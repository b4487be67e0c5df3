"""Suspect labels: the published rule, and labels that were flipped on purpose."""

from collections.abc import Iterator

import numpy as np

from vision.inspection.held_out import HeldOut, hold_out
from vision.inspection.suspects import find_suspects


def points(count: int = 300, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, their true classes, and numbers of their images."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, classes, count)
    features = draw.normal(0, 1, (count, 8)) + 4 * np.eye(8)[labels]
    return features.astype(np.float32), labels, draw.permutation(count).astype(np.uint64)


def held_out(features: np.ndarray, labels: np.ndarray, images: np.ndarray) -> HeldOut:
    return hold_out(lambda places: features[places], labels, images, int(labels.max()) + 1, 1)


def in_halves(probabilities: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for part in np.array_split(np.arange(len(probabilities)), 2):
        yield part, probabilities[part]


def test_most_flipped_labels_are_found_and_most_suspects_are_flipped():
    features, true, images = points()
    flipped = np.random.default_rng(1).permutation(len(true))[:15]
    labels = true.copy()
    labels[flipped] = (true[flipped] + 1) % 3
    found = find_suspects(held_out(features, labels, images).blocks, labels, 3)
    is_hit = np.isin(found.places, flipped)
    assert is_hit.sum() >= 9
    assert is_hit[:8].all()
    assert is_hit.mean() >= 0.8
    assert np.array_equal(found.suggested[is_hit], true[found.places[is_hit]])
    assert (np.diff(found.score) <= 0).all()
    assert ((found.score > 0.5) & (found.score <= 1)).all()


def test_an_image_is_predicted_by_fits_that_did_not_see_its_copies():
    features, labels, images = points(60)
    twice = [np.concatenate([each, each]) for each in (features, labels, images)]
    found = held_out(*twice)
    assert np.array_equal(found.folds[:60], found.folds[60:])
    places = np.sort(np.concatenate([places for places, _ in found.blocks()]))
    assert np.array_equal(places, np.arange(120))


def test_the_ranking_follows_the_published_rule():
    # Thresholds 0.75 and 0.6. Of label 0 the joint counts images 0, 1 (class 0) and 2 (class 1); of label 1 images 4, 5.
    first = np.array([0.98, 0.97, 0.3, 0.75, 0.1, 0.2, 0.9])
    probabilities, labels = np.stack([first, 1 - first], axis=1), np.array([0, 0, 0, 0, 1, 1, 1])
    found = find_suspects(lambda: in_halves(probabilities), labels, 2)
    # Mean self-confidence: 0.75 of label 0; (0.9 + 0.8 + 0.1) / 3 = 0.6 of label 1. Every image reaches one threshold.
    assert np.allclose(found.expected, [[3, 1], [1, 2]])
    assert found.places.tolist() == [6, 2]
    assert found.suggested.tolist() == [0, 1]
    assert np.allclose(found.score, [0.9, 0.7])


def test_a_class_with_too_few_images_is_neither_suspected_nor_suggested():
    first = np.array([0.98, 0.97, 0.3, 0.75, 0.1, 0.2, 0.9])
    probabilities, labels = np.stack([first, 1 - first], axis=1), np.array([0, 0, 0, 0, 1, 1, 1])
    found = find_suspects(lambda: in_halves(probabilities), labels, 2, np.array([True, False]))
    assert len(found.places) == 0


def test_without_samples_nothing_is_suspect():
    nothing = np.empty((0, 2)), np.empty(0, np.int64)
    assert len(find_suspects(lambda: in_halves(nothing[0]), nothing[1], 2).places) == 0
