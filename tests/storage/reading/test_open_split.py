import shutil
from collections import Counter
from pathlib import Path

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
        ({"classes": ("cats", "cows")}, "names 'cows'.*'cats', 'dogs'"),
    ],
    ids=str,
)
def test_what_is_not_there_is_named(store, filled, wrong, message):
    with pytest.raises(InputError, match=message):
        open_split(store, **wrong)


def test_the_rows_are_those_of_the_store_in_its_dtype(store, filled):
    features, labels = next(open_split(store, batch_size=4).batches())
    assert (features.dtype, features.shape, labels.dtype) == (np.float16, (4, 1, 1, 512), np.uint16)


@pytest.fixture(scope="module")
def with_copies(tmp_path_factory) -> tuple[Path, Counter]:
    """A store of 400 pictures, 60 of which are there again, some under the other class; and what is in it."""
    root = tmp_path_factory.mktemp("copies")
    images = toy.pictures(root / "images", per_class=200)
    for index in range(60):
        own, other = ("cats", "dogs") if index % 2 else ("dogs", "cats")
        copy = images / (other if index % 7 == 0 else own) / f"copy-{index}.png"
        shutil.copy(images / own / f"{index:03d}.png", copy)
    _, version = toy.run(images, root / "store", validation_fraction=0.0, chunk_size=256)
    features = toy.features_of(images, root / "store", version)
    files = version.read_files(toy.space(images, root / "store").store).to_pylist()
    return root / "store", Counter((features[f["digest"]].tobytes(), int(f["class"] == "dogs")) for f in files)


@pytest.mark.parametrize("with_replacement", [False, True])
@pytest.mark.parametrize("memory_mb", [0.2, 0.5, 0.8, 1])
@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3, 4, 5])
def test_every_sample_comes_once_a_pass_whatever_is_duplicated(with_copies, seed, memory_mb, with_replacement):
    store, there = with_copies
    stream = open_split(store, "train", 32, seed, memory_mb=memory_mb, with_replacement=with_replacement)
    for epoch in range(2):
        batches = stream.batches(epoch)
        found = Counter((f.tobytes(), int(c)) for batch in batches for f, c in zip(*batch, strict=True))
        if with_replacement and seed is not None:
            assert (found.total(), set(found) - set(there)) == (there.total(), set())
        else:
            assert found == there
