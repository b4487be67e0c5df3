"""Pieces of predictions: what was written is read once, and damage costs only its own images."""

import os
import resource
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import StoreBusy
from storage.layout import Store
from storage.predictions.pieces import claimed, pieces_folder, read_pieces, remove_pieces, write_piece


def digest(number: int) -> bytes:
    return sha256(str(number).encode()).digest()


def scores(numbers: list[int], classes: int = 3) -> np.ndarray:
    """Probabilities that tell images apart."""
    return np.array([[number + place / 10 for place in range(classes)] for number in numbers], np.float32).reshape(
        -1, classes
    )


def written(folder, numbers: list[int], reasons: dict[int, str] | None = None):
    codes = {digest(number): code for number, code in (reasons or {}).items()}
    return write_piece(folder, [digest(number) for number in numbers], scores(numbers), codes)


@given(pieces=st.lists(st.lists(st.integers(0, 9)), max_size=5), order=st.randoms())
def test_every_digest_comes_once_with_its_own_probabilities(tmp_path_factory, pieces, order):
    folder = tmp_path_factory.mktemp("pieces")
    for numbers in pieces:
        written(folder, numbers)
    found = read_pieces(folder, 3)
    digests = found.digests.to_pylist()
    numbers = sorted({number for piece in pieces for number in piece})
    assert sorted(digests) == sorted(digest(number) for number in numbers)
    order.shuffle(numbers)
    rows = np.array([digests.index(digest(number)) for number in numbers], int)
    assert np.array_equal(found.probabilities(rows), scores(numbers))


def test_a_file_that_could_not_be_read_is_tried_again_and_its_good_row_wins(tmp_path):
    written(tmp_path, [1], {2: "vanished", 3: "truncated"})
    assert set(read_pieces(tmp_path, 3).digests.to_pylist()) == {digest(1), digest(3)}
    last = read_pieces(tmp_path, 3, is_last_word=True)
    assert dict(zip(last.digests.to_pylist(), last.reasons.to_pylist(), strict=True)) == {
        digest(1): None,
        digest(2): "vanished",
        digest(3): "truncated",
    }
    written(tmp_path, [2])
    again = read_pieces(tmp_path, 3, is_last_word=True)
    assert again.reasons.to_pylist()[again.digests.to_pylist().index(digest(2))] is None


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_a_damaged_piece_costs_its_own_images(tmp_path, damage):
    written(tmp_path, [1, 2])
    piece = written(tmp_path, [3, 4])
    data = piece.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    piece.write_bytes({"flip": bytes(flipped), "cut": data[:-9], "empty": b"", "longer": data + b"\0"}[damage])
    assert set(read_pieces(tmp_path, 3).digests.to_pylist()) == {digest(1), digest(2)}
    assert not piece.exists()


def test_there_may_be_more_pieces_than_files_that_a_process_may_open(tmp_path):
    for number in range(150):
        written(tmp_path, [number])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = max(map(int, os.listdir("/dev/fd")))  # the tests before this one may hold files
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 50, before[1]))
    try:
        found = read_pieces(tmp_path, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(found.digests) == 150


def test_runs_of_other_files_and_heads_keep_their_pieces_and_one_file_has_one_run(tmp_path):
    store = Store(tmp_path / "store", "")
    heads = ["0" * 32, "1" * 32]
    mine, old = (pieces_folder(store, head, tmp_path / "p.csv") for head in heads)
    other = pieces_folder(store, heads[0], tmp_path / "q.csv")
    for folder in (mine, old, other):
        written(folder, [1])
    with claimed(mine, tmp_path / "p.csv"):
        with pytest.raises(StoreBusy, match="another run writes"), claimed(old, tmp_path / "p.csv"):
            pass
        with claimed(other, tmp_path / "q.csv"):
            pass
        remove_pieces(mine, keep=True)
        assert [folder.exists() for folder in (mine, old, other)] == [True, False, True]
        remove_pieces(mine, keep=False)
        assert [folder.exists() for folder in (mine, old, other)] == [False, False, True]
