"""Which options and data make another head, and what is no finished head."""

import dataclasses
import json

import pytest

from storage.errors import InputError
from tests import toy
from tests.workers.jobs.trainer import SPEC
from vision.training.head import HeadSpec
from workers.jobs.head_identity import base_name, check_trainable, find_head, head_name

FINGERPRINT, DATA = "f" * 32, "d" * 64
TURN, FLIP = '{"rotation_range":20.0}', '{"horizontal_flip":true}'

# Names


@pytest.mark.parametrize(
    "changed",
    [
        {"classes": ("dogs", "cats")},
        {"epochs": 3},
        {"batch_size": 16},
        {"optimizer": "adam"},
        {"learning_rate": 0.1},
        {"standardize": False},
        {"shuffle_memory_mb": 8},
        {"kind": "linear"},
        {"class_weight": "balanced"},
        {"sampling": "bootstrap"},
        {"steps_per_epoch": 3},
        {"validation_steps": 3},
        {"initial_epoch": 1},
        {"initial_epoch": 1, "initial_head": "a" * 32},
        {"patience": 3},
        {"augment": TURN, "variants": 4},
        {"augment": TURN, "train_on": "images"},
        {"train_on": "images"},
        {"fine_tune": "block5"},
    ],
    ids=str,
)
def test_every_part_of_the_spec_is_in_the_name_of_a_head(changed):
    other = dataclasses.replace(SPEC, **changed)
    assert head_name(FINGERPRINT, DATA, other, 0) != head_name(FINGERPRINT, DATA, SPEC, 0)


@pytest.mark.parametrize("other", [("0" * 32, DATA, 0), (FINGERPRINT, "0" * 64, 0), (FINGERPRINT, DATA, 1)])
def test_space_data_and_seed_are_in_the_name_of_a_head(other):
    fingerprint, data, seed = other
    assert head_name(fingerprint, data, SPEC, seed) != head_name(FINGERPRINT, DATA, SPEC, 0)


OLDER = HeadSpec(
    ("cats", "dogs"),
    kind="linear",
    epochs=30,
    initial_epoch=20,
    steps_per_epoch=7,
    validation_steps=3,
    learning_rate=1e-3,
    patience=4,
    class_weight="balanced",
    sampling="bootstrap",
    standardize=False,
)


@pytest.mark.parametrize(
    ("spec", "seed", "name"),
    [
        (SPEC, 0, "a3f2bb2a2c8711a934260745ce4d2f46"),
        (HeadSpec(("ants", "cats", "dogs")), 5, "2776fbba7d529a9288233e399c190247"),
        (OLDER, 0, "a4093f707826fddabd145f2c6e436536"),
    ],
    ids=["few epochs", "defaults", "nothing usual"],
)
def test_the_name_of_a_head_is_the_same_for_ever(spec, seed, name):
    """Heads that were trained before augmentation existed keep their names too."""
    assert head_name(FINGERPRINT, DATA, spec, seed) == name


def test_how_images_are_augmented_and_what_is_fine_tuned_make_other_heads():
    """All of these train on the same images, and their names are all different."""
    named = [
        {},
        {"augment": TURN, "variants": 2},
        {"augment": TURN, "variants": 3},
        {"augment": FLIP, "variants": 3},
        {"augment": TURN, "train_on": "images"},
        {"augment": FLIP, "train_on": "images"},
        {"fine_tune": "block5"},
        {"fine_tune": "block4"},
        {"fine_tune": "block5", "augment": TURN},
        {"fine_tune": "block5", "augment": TURN, "variants": 3},
        {"fine_tune": "block5", "fine_tune_epochs": 6},
        {"fine_tune": "block5", "fine_tune_learning_rate": 1e-4},
    ]
    names = {head_name(FINGERPRINT, DATA, dataclasses.replace(SPEC, **options), 0) for options in named}
    assert len(names) == len(named)


@pytest.mark.parametrize(
    ("options", "base"),
    [
        ({}, {}),
        ({"augment": TURN}, {}),
        ({"augment": TURN, "variants": 3}, {"augment": TURN, "variants": 3}),
        ({"augment": TURN, "train_on": "images"}, {"augment": TURN, "train_on": "images"}),
        ({"fine_tune_epochs": 9, "fine_tune_learning_rate": 1e-3}, {}),
        ({"initial_epoch": 1}, {"initial_epoch": 1}),
    ],
    ids=str,
)
def test_fine_tuning_begins_at_the_head_that_is_trained_without_it(options, base):
    tuned, head = (dataclasses.replace(SPEC, **given) for given in (options | {"fine_tune": "block5"}, base))
    assert base_name(FINGERPRINT, DATA, tuned, 3) == head_name(FINGERPRINT, DATA, head, 3)


def test_the_name_of_a_head_does_not_depend_on_how_the_rows_were_cut_into_shards(images, tmp_path):
    _, coarse = toy.run(images, tmp_path / "coarse", chunk_size=100)
    _, fine = toy.run(images, tmp_path / "fine", chunk_size=3)
    assert len(coarse.shards) < len(fine.shards)
    assert coarse.data_digest == fine.data_digest


# Classes and splits


@pytest.mark.parametrize(("names", "there"), [((), "found none"), (("cats",), "found only 'cats'")])
def test_one_class_cannot_be_trained_on_and_is_named(names, there):
    with pytest.raises(InputError, match=rf"at least two classes, but {there};.*`extract_only`"):
        check_trainable({"train": {"cats": 3}, "validation": {"cats": 1}}, names)


def test_a_split_that_only_classes_which_are_left_out_have_is_empty():
    with pytest.raises(InputError, match="in the validation split, which has none"):
        check_trainable({"train": {"a": 3, "b": 3, "c": 1}, "validation": {"c": 1}}, ("a", "b"))


@pytest.mark.parametrize("missing", ["train", "validation"])
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_a_split_without_images_is_refused_by_name(missing, how):
    classes = {"train": {"cats": 3, "dogs": 3}, "validation": {"cats": 1}, "test": {"cats": 1}}
    classes[missing] = {}
    if how == "absent":
        del classes[missing]
    with pytest.raises(InputError, match=rf"in the {missing} split, which has none;.*`validation_fraction`"):
        check_trainable(classes, ("cats", "dogs"))


def test_two_classes_in_two_splits_are_enough():
    check_trainable({"train": {"cats": 1, "dogs": 1}, "validation": {"dogs": 1}}, ("cats", "dogs"))


# Finished heads, and folders that are none


def test_a_folder_without_head_json_is_no_head(images, store):
    where = toy.space(images, store).store
    where.head("a" * 32).mkdir(parents=True)
    (where.head("a" * 32) / "head.keras").write_bytes(b"half a head")
    assert find_head(where, "a" * 32) is None
    assert find_head(where, "b" * 32) is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"metrics": {}}', '{"metrics": {"epochs": 1}, "history": []}']
)
def test_a_head_json_that_says_too_little_is_no_head(content, images, store):
    where = toy.space(images, store).store
    where.head("a" * 32).mkdir(parents=True)
    (where.head("a" * 32) / "head.json").write_text(content)
    assert find_head(where, "a" * 32) is None
    if content.startswith('{"'):  # sealed by our own writer, it is still no head
        toy.head(where, "b" * 32, json.loads(content), b"a model")
        assert find_head(where, "b" * 32) is None
