"""What a run will write, and whether it fits."""

import dataclasses

import pytest

from storage.disk import check_room, expected_bytes, free_bytes
from storage.errors import NoRoom
from storage.shards import FeatureType
from tests import toy

KIND = FeatureType("float16", toy.SPEC.shape)


@pytest.mark.parametrize("format", ["parquet", "npz"])
def test_the_expected_bytes_of_more_images_follow_those_that_are_there(images, store, format):
    _, version = toy.run(images, store, format=format)
    per_image = sum(ref.size_bytes for ref in version.shards.values()) / 20
    for index in range(5):
        toy.picture(images / "cats" / f"more-{index}.png", 500 + index)
    assert expected_bytes(toy.plan(images, store, format=format), KIND) == pytest.approx(5 * per_image, abs=1)


def test_npz_is_expected_to_take_every_byte_and_parquet_less(images, store):
    npz, parquet = (expected_bytes(toy.plan(images, store, format=name), KIND) for name in ("npz", "parquet"))
    assert npz == 20 * KIND.row_bytes
    assert 0 < parquet < npz


def test_what_is_in_one_format_says_nothing_of_the_other(images, store):
    toy.run(images, store)
    toy.picture(images / "cats" / "more.png", 500)
    assert expected_bytes(toy.plan(images, store, format="npz"), KIND) == KIND.row_bytes


def test_a_plan_that_does_not_fit_is_refused_with_both_sizes(images, store):
    planned, where = toy.plan(images, store), toy.space(images, store).store
    check_room(where, planned, KIND)
    too_large = dataclasses.replace(KIND, shape=(free_bytes(store),))
    with pytest.raises(NoRoom, match=r"20 images will take about .* MB, .* has .* MB left"):
        check_room(where, planned, too_large)
