import numpy as np
import pytest

from storage.errors import InputError
from storage.reading import open_split
from tests import toy


@pytest.fixture
def filled(images, store):
    return toy.run(images, store, validation_fraction=0.4)[1]


def test_a_split_is_read_with_every_usable_image_once_an_epoch(images, store, filled):
    features = toy.features_of(images, store, filled)
    files = filled.read_files(toy.space(images, store).store).to_pylist()
    for split in ("train", "validation"):
        stream = open_split(store, split, batch_size=3, seed=1)
        found = sorted((f.tobytes(), int(c)) for batch in stream.batches() for f, c in zip(*batch, strict=True))
        expected = [(features[f["digest"]].tobytes(), int(f["class"] == "dogs")) for f in files if f["split"] == split]
        assert found == sorted(expected)


def test_classes_stand_in_the_order_asked_for(store, filled):
    one, other = (open_split(store, classes=classes).class_counts() for classes in (None, ("dogs", "cats")))
    assert one.tolist() == other.tolist()[::-1] == [filled.classes["train"][name] for name in ("cats", "dogs")]


def test_an_older_version_can_be_read(images, store, filled):
    toy.picture(images / "cats" / "later.png", seed=99)
    toy.run(images, store, validation_fraction=0.0)
    assert len(open_split(store, version=1).table) == sum(filled.classes["train"].values())
    assert len(open_split(store).table) > len(open_split(store, version=1).table)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "test"}, "no usable image in the split 'test'"),
        ({"version": 7}, "no version 7"),
        ({"space": "abc"}, "no such feature space"),
        ({"classes": ("cats",)}, "cats, dogs"),
    ],
    ids=str,
)
def test_what_is_not_there_is_named(store, filled, wrong, message):
    with pytest.raises(InputError, match=message):
        open_split(store, **wrong)


def test_the_rows_are_those_of_the_store_in_its_dtype(store, filled):
    features, labels = next(open_split(store, batch_size=4).batches())
    assert (features.dtype, features.shape, labels.dtype) == (np.float16, (4, 1, 1, 512), np.uint16)
