"""Which classes a head has: all that can be learnt, or those that were named, in the order in which they were named."""

import pytest

from storage.classes import index_order, only
from storage.errors import InputError
from storage.manifest.versions import latest_version
from tests import toy

CLASSES = {"train": {"dogs": 3, "cats": 2}, "validation": {"ants": 1}, "test": {"cats": 1, "newts": 2}}


def test_without_a_wish_the_classes_are_in_order_of_their_names_and_those_of_test_alone_are_left_out():
    assert index_order(None, CLASSES) == ("ants", "cats", "dogs")
    assert index_order(None, {"test": {"b": 1, "a": 1}}) == ("a", "b")


@pytest.mark.parametrize("wanted", [("dogs", "ants", "cats"), ("dogs", "cats"), ("newts", "ants")])
def test_the_classes_are_those_that_were_asked_for_in_their_order(wanted):
    assert index_order(wanted, CLASSES) == wanted


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            ("cats", "lynxes"),
            "names 'lynxes', but there are no such images; given: 'cats', 'lynxes'; classes of the images: 'ants'",
        ),
        (("cats", "dogs "), "'dogs '.*'dogs ' is like 'dogs'"),
        (("Cats", "dogs"), "'Cats' is like 'cats'"),
        (("cats", "dogs", "cats"), "'cats' more than once"),
        (("cats", ""), "names ''"),
        ((), "is empty"),
    ],
)
def test_a_class_that_no_image_has_is_refused_with_both_lists(wanted, said):
    with pytest.raises(InputError, match=said):
        index_order(wanted, CLASSES)


def test_the_counts_of_some_classes_have_no_split_that_is_empty():
    assert only(CLASSES, ("ants", "dogs")) == {"train": {"dogs": 3}, "validation": {"ants": 1}}


def test_a_class_that_no_image_has_is_found_by_the_plan_before_anything_is_extracted(images, store):
    with pytest.raises(InputError, match="'lynxes'"):
        toy.plan(images, store, classes=("cats", "lynxes"))
    assert latest_version(toy.space(images, store).store) is None
    assert toy.plan(images, store, classes=("dogs",)).todo.num_rows == 20
