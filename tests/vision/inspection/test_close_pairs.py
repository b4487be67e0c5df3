import numpy as np
import pytest

from vision.inspection import close_pairs as module
from vision.inspection.close_pairs import close_pairs


def collected(vectors, rows, threshold, most=32):
    found = list(close_pairs(vectors, rows, threshold, most))
    pairs = [(i, j) for part in found for i, j in zip(part.first.tolist(), part.second.tolist(), strict=True)]
    return (
        pairs,
        np.concatenate([part.similarity for part in found]) if found else np.empty(0),
        sum(p.cut for p in found),
    )


def brute_force(vectors, rows, threshold):
    units = vectors[rows].astype(np.float64)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-30)
    i, j = np.nonzero(np.triu(units @ units.T, 1) >= threshold)
    return list(zip(rows[i].tolist(), rows[j].tolist(), strict=True))


@pytest.mark.parametrize("threshold", [0.6, 0.9, 0.999])
@pytest.mark.parametrize(("channels", "spread"), [(8, 1.0), (200, 0.1), (200, 1.0), (512, 0.5)])
def test_the_pairs_are_those_of_a_brute_force(monkeypatch, threshold, channels, spread):
    monkeypatch.setattr(module, "BLOCK_ROWS", 150)
    monkeypatch.setattr(module, "TILE_ROWS", 40)
    random = np.random.default_rng(channels)
    centres = random.normal(size=(60, channels))
    vectors = np.float32(centres[random.integers(0, 60, 700)] + spread * random.normal(size=(700, channels)))
    vectors[random.integers(0, 700, 30)] = vectors[3]
    vectors[random.integers(0, 700, 3)] = 0
    rows = np.flatnonzero(random.random(700) < 0.9)
    pairs, similarity, cut = collected(vectors, rows, threshold, most=700)
    assert pairs == brute_force(vectors, rows, threshold)
    assert cut == 0
    assert np.all(similarity >= threshold)


def test_a_row_keeps_its_most_similar_partners_and_the_others_are_counted(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 64)
    vectors = np.tile(np.arange(1, 21, dtype=np.float32), (300, 1))
    pairs, _, cut = collected(vectors, np.arange(300), 0.9, most=5)
    assert pairs == [(i, j) for i in range(300) for j in range(i + 1, min(i + 6, 300))]
    assert cut == 294


def test_no_rows_have_no_pairs():
    assert collected(np.empty((0, 4), np.float32), np.arange(0), 0.9)[0] == []
