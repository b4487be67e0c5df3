"""What a run will write, and whether it fits."""

import pytest

from storage.errors import NoRoom
from storage.planning.free_space import check_room, expected_bytes, free_bytes
from tests import toy

ROW_BYTES = 1000.0


@pytest.mark.parametrize("format", ["parquet", "npz"])
def test_the_expected_bytes_of_more_images_follow_those_that_are_there(images, store, format):
    _, version = toy.run(images, store, format=format)
    per_image = sum(ref.size_bytes for ref in version.shards.values()) / 20
    for index in range(5):
        toy.picture(images / "cats" / f"more-{index}.png", 500 + index)
    assert expected_bytes(toy.plan(images, store, format=format), ROW_BYTES) == pytest.approx(5 * per_image, abs=1)


def test_where_nothing_is_there_the_expected_bytes_are_those_that_were_told(images, store):
    assert expected_bytes(toy.plan(images, store), ROW_BYTES) == 20 * ROW_BYTES


def test_what_is_in_one_format_says_nothing_of_the_other(images, store):
    toy.run(images, store)
    toy.picture(images / "cats" / "more.png", 500)
    assert expected_bytes(toy.plan(images, store, format="npz"), ROW_BYTES) == ROW_BYTES


def test_a_plan_that_does_not_fit_is_refused_with_both_sizes(images, store):
    planned, where = toy.plan(images, store), toy.space(images, store).store
    check_room(where, planned, ROW_BYTES)
    with pytest.raises(NoRoom, match=r"20 images need about .* MB, .* has only .* MB left"):
        check_room(where, planned, free_bytes(store))
