import numpy as np
import pytest

from storage.reading import neighbours
from storage.reading.neighbours import nearest


def brute_force(vectors, query, top, is_allowed):
    unit = vectors.astype(np.float64)
    lengths = np.linalg.norm(unit, axis=1)
    similarities = unit @ query.astype(np.float64) / np.where(lengths > 0, lengths, 1) / (np.linalg.norm(query) or 1)
    order = [row for row in np.lexsort((np.arange(len(vectors)), -np.round(similarities, 9))) if is_allowed[row]]
    return order[:top], similarities[order[:top]]


@pytest.mark.parametrize("seed", range(6))
def test_neighbours_are_those_of_a_brute_force(seed, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_ROWS", 64)
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(500, 24)).astype(np.float32)
    vectors[random.integers(0, 500, 60)] = vectors[7]  # ties
    vectors[random.integers(0, 500, 5)] = 0
    queries = np.concatenate([vectors[[7, 20]], random.normal(size=(3, 24)), np.zeros((1, 24))]).astype(np.float32)
    is_allowed = random.random(500) < 0.8
    for (rows, similarities), query in zip(nearest(vectors, queries, 25, is_allowed), queries, strict=True):
        expected, values = brute_force(vectors, query, 25, is_allowed)
        assert rows.tolist() == expected
        np.testing.assert_allclose(similarities, values, atol=1e-7)


def test_equal_vectors_are_ordered_by_row():
    vectors = np.tile(np.arange(1, 514, dtype=np.float32), (20_000, 1))
    ((rows, similarities),) = nearest(vectors, vectors[:1], 9)
    assert rows.tolist() == list(range(9))
    assert len(set(similarities.tolist())) == 1


def test_fewer_rows_than_asked_for_are_all_returned():
    ((rows, similarities),) = nearest(np.eye(3, dtype=np.float32), np.eye(3)[:1].astype(np.float32), 9)
    assert (rows.tolist(), similarities.tolist()) == ([0, 1, 2], [1, 0, 0])


def test_no_vectors_have_no_neighbours():
    ((rows, _),) = nearest(np.empty((0, 4), np.float32), np.ones((1, 4), np.float32), 3)
    assert rows.tolist() == []
