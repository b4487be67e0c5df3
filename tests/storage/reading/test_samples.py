"""Which file lies behind which sample, and in which of its views a pass takes it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.manifest.versions import Version
from storage.reading.sample_files import files_of, pin_files
from storage.reading.samples import SAMPLE, SampleTable, ViewTable, pin, pin_views
from storage.shards.shard import Shard
from tests import odd, toy

CLASSES = ("dogs", "cats")
TURN, FLIP = '{"rotation_range":20.0}', '{"horizontal_flip":true,"shear_range":30.0}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pictures of two classes in two splits: some are there three times, one is of both classes, one has a name of any bytes."""
    root = tmp_path_factory.mktemp("samples") / "images"
    for number, split in enumerate(("train", "validation")):
        for place, name in enumerate(CLASSES):
            for index in range(9):
                toy.picture(root / split / name / f"{index:03d}.png", seed=100 * number + 10 * place + index)
    for split in ("train", "validation"):
        for copy in ("a copy", "zz"):
            shutil.copy(root / "validation/cats/004.png", root / split / "cats" / f"{copy}.png")
        shutil.copy(root / "validation/cats/004.png", root / split / "dogs" / "also a cat.png")
    odd.file(root, b"validation/dogs/caf\xe9.png", 999)
    return root


@pytest.fixture(scope="module", params=[100, 5], ids=["one shard", "many shards"])
def pinned(folder, tmp_path_factory, request) -> tuple[Path, Version, SampleTable]:
    store = tmp_path_factory.mktemp("store")
    _, version = toy.run(folder, store, chunk_size=request.param)
    return store, version, pin(toy.space(folder, store).store, version, "validation", CLASSES, store)


def test_the_file_behind_a_sample_has_its_class_and_the_digest_that_lies_at_its_row(folder, pinned):
    root, version, table = pinned
    store = toy.space(folder, root).store
    digests = [Shard(store, ref).digests() for ref in table.shards]
    found = files_of(store, version, "validation", table, range(len(table)))
    for sample, (path, digest) in zip(table.samples, found, strict=True):
        assert path.startswith(b"validation/%s/" % CLASSES[sample["class"]].encode())
        assert digest == digests[sample["shard"]][sample["row"]]
        listed = version.read_files(store).to_pylist()
        assert next(file for file in listed if file["path"] == path)["digest"] == digest


def test_every_file_of_a_split_lies_behind_exactly_one_sample(folder, pinned):
    root, version, table = pinned
    found = files_of(toy.space(folder, root).store, version, "validation", table, range(len(table)))
    there = {os.path.relpath(os.fsencode(path), os.fsencode(folder)) for path in folder.glob("validation/*/*.png")}
    assert sorted(path for path, _ in found) == sorted(there)


def test_a_few_samples_in_any_order_are_told_as_all_are(folder, pinned):
    root, version, table = pinned
    store = toy.space(folder, root).store
    everything = files_of(store, version, "validation", table, range(len(table)))
    few = [17, 3, 3, 20]
    assert files_of(store, version, "validation", table, few) == [everything[index] for index in few]
    assert files_of(store, version, "validation", table, []) == []


def test_the_files_of_a_table_are_told_all_at_once_as_one_by_one(folder, pinned, tmp_path):
    root, version, table = pinned
    store = toy.space(folder, root).store
    told = pin_files(store, version, "validation", table, tmp_path)
    found = [(file["path"], file["digest"]) for file in told.to_pylist()]
    assert found == files_of(store, version, "validation", table, range(len(table)))


# Views


def table_of(images: list[int], views: int) -> ViewTable:
    """Samples whose shard is the number of the view, and whose row says which sample it is."""
    samples = np.zeros((views, len(images)), SAMPLE)
    samples["shard"], samples["row"] = np.arange(views)[:, None], np.arange(len(images))
    return ViewTable(samples, np.array(images, np.uint64), (), CLASSES)


def drawn(table: ViewTable, seed: int | None, number: int) -> list[int]:
    """The view of each sample in a pass."""
    samples = np.sort(table.of_pass(seed, number).samples, order="row")
    assert samples["row"].tolist() == list(range(len(table)))
    return samples["shard"].tolist()


images_of = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20)
passes = st.integers(0, 2**31)


@given(images_of, st.integers(1, 256), st.integers(0, 2**32 - 2), passes)
def test_a_pass_has_every_sample_once_in_one_of_its_views_in_the_order_of_the_store(images, views, seed, number):
    samples = table_of(images, views).of_pass(seed, number).samples
    assert sorted(samples["row"].tolist()) == list(range(len(images)))
    assert samples["shard"].max() < views
    assert samples.tolist() == sorted(samples.tolist())


@given(images_of, images_of, st.integers(1, 256), st.integers(0, 2**32 - 2), passes)
def test_the_view_of_an_image_depends_on_no_other_image(images, others, views, seed, number):
    alone = [drawn(table_of([image], views), seed, number)[0] for image in images]
    together = drawn(table_of([*others, *images, *images], views), seed, number)[len(others) :]
    assert together == [*alone, *alone]


@pytest.mark.parametrize(
    ("seed", "number", "two", "four", "five"),
    [
        (0, 0, [1, 0, 0, 1], [1, 0, 2, 1], [1, 2, 1, 1]),
        (0, 9, [1, 0, 1, 1], [1, 0, 1, 1], [0, 4, 2, 3]),
        (7, 0, [0, 1, 1, 0], [0, 3, 1, 0], [4, 4, 0, 3]),
        (7, 1, [1, 0, 1, 0], [3, 0, 3, 0], [2, 3, 3, 1]),
    ],
)
def test_the_view_that_a_pass_takes_is_the_same_for_ever(seed, number, two, four, five):
    images = [int.from_bytes(bytes([byte]) * 8, "little") for byte in (0, 1, 2, 250)]
    assert [drawn(table_of(images, views), seed, number) for views in (2, 4, 5)] == [two, four, five]


@pytest.mark.parametrize("views", [2, 4, 7])
def test_over_many_passes_each_view_of_an_image_is_taken_about_as_often(views):
    """Of each image, and in each pass of all images: five standard deviations of a fair draw are allowed."""
    table = table_of(np.random.default_rng(0).integers(0, 2**63, 300).tolist(), views)
    taken = np.array([drawn(table, 5, number) for number in range(1200)])
    for axis, length in ((0, 1200), (1, 300)):
        counts = np.stack([(taken == view).sum(axis=axis) for view in range(views)])
        assert np.abs(counts - length / views).max() < 5 * np.sqrt(length / views * (1 - 1 / views))
    pairs = taken[:-1] * views + taken[1:]  # nor does a view say which one the next pass takes
    counts = np.bincount(pairs.ravel(), minlength=views**2)
    assert np.abs(counts - pairs.size / views**2).max() < 5 * np.sqrt(pairs.size / views**2)


@pytest.fixture
def viewed(folder, tmp_path, monkeypatch) -> tuple[Path, Version]:
    """A store with view 0 to 3 of two augmentations, in shards of a few rows."""
    toy.without_keras(monkeypatch)
    store = tmp_path / "store"
    for augmentation in (FLIP, TURN):
        _, version = toy.run(folder, store, chunk_size=5, variants=4, augmentation=augmentation)
    return store, version


def lying_at(folder: Path, root: Path, version: Version) -> dict[tuple[str, int], tuple[bytes, str, int]]:
    """(shard, row) → (digest, augmentation or an empty text, k), straight from the version."""
    rows = version.read_rows(toy.space(folder, root).store).to_pylist()
    found = {}
    for row in rows:
        index, variant = divmod(row["view"], 256)
        found[row["shard"], row["row"]] = row["digest"], version.augmentations[index] if variant else "", variant
    return found


@pytest.mark.parametrize("augmentation", [TURN, FLIP])
def test_each_view_of_a_sample_lies_where_the_version_says(folder, viewed, tmp_path, augmentation):
    root, version = viewed
    store, there = toy.space(folder, root).store, lying_at(folder, *viewed)
    table = pin_views(store, version, "train", CLASSES, tmp_path, augmentation, 4)
    plain = pin(store, version, "train", CLASSES, tmp_path)
    assert table.samples.shape == (4, len(plain))
    assert sorted(table.samples[0].tolist()) == plain.samples.tolist()
    for image, samples in zip(table.images, table.samples.T, strict=True):
        views = [there[table.shards[sample["shard"]].name, sample["row"]] for sample in samples]
        assert len({digest for digest, _, _ in views}) == 1
        assert [view[1:] for view in views] == [("", 0), *((augmentation, k) for k in (1, 2, 3))]
        assert image == int.from_bytes(views[0][0][:8], "little")
        assert len(set(samples["class"].tolist())) == 1


def test_a_pass_over_a_store_takes_files_of_equal_bytes_in_the_same_view(folder, viewed, tmp_path):
    """One picture lies in the training folders three times, of two classes."""
    root, version = viewed
    there = lying_at(folder, *viewed)
    table = pin_views(toy.space(folder, root).store, version, "train", CLASSES, tmp_path, TURN, 4)
    (twin,) = (image for image in set(table.images.tolist()) if table.images.tolist().count(image) > 1)
    seen = set()
    for number in range(40):
        taken = table.of_pass(3, number)
        views = [there[taken.shards[sample["shard"]].name, sample["row"]] for sample in taken.samples]
        twins = [(view, sample) for view, sample in zip(views, taken.samples["class"].tolist(), strict=True)]
        twins = [(view, label) for view, label in twins if int.from_bytes(view[0][:8], "little") == twin]
        assert sorted(label for _, label in twins) == [0, 1, 1]
        assert len({view for view, _ in twins}) == 1
        seen.add(twins[0][0][2])
    assert seen == {0, 1, 2, 3}


def test_a_sample_that_lacks_a_variant_is_plain_and_told_of(folder, tmp_path, monkeypatch, caplog):
    """Of all images one variant is stored, of some two more."""
    toy.without_keras(monkeypatch)
    toy.run(folder, tmp_path / "store", chunk_size=5, variants=2, augmentation=TURN)
    _, version = toy.run(folder, tmp_path / "store", chunk_size=5, variants=4, augmentation=TURN, limit=6)
    there = lying_at(folder, tmp_path / "store", version)
    store = toy.space(folder, tmp_path / "store").store
    table = pin_views(store, version, "train", CLASSES, tmp_path, TURN, 5)
    found = {}
    for samples in table.samples.T:
        views = [there[table.shards[sample["shard"]].name, sample["row"]] for sample in samples]
        found.setdefault(tuple(k for _, _, k in views), set()).add(views[0][0])
        assert len({digest for digest, _, _ in views}) == 1
    assert found.keys() == {(0, 1, 0, 0, 0), (0, 1, 2, 3, 0)}
    assert len(found[0, 1, 2, 3, 0]) == 6
    lacking = np.count_nonzero(table.samples[2] == table.samples[0])
    told = [record.getMessage() for record in caplog.records]
    assert [line for line in told if "variant 4 is missing" in line] == [
        f"variant 4 is missing for {len(table)} of {len(table)} images: the plain image replaces it"
    ]
    lines = [line for line in told if "variant 2" in line or "variant 3" in line]
    assert [line.partition(" for ")[2].split(" of ")[0] for line in lines] == [str(lacking)] * 2
    assert not any("variant 1" in line for line in told)


def test_of_an_augmentation_that_the_version_does_not_know_all_is_plain(folder, pinned, tmp_path):
    root, version, _ = pinned
    table = pin_views(toy.space(folder, root).store, version, "train", CLASSES, tmp_path, TURN, 3)
    assert all(samples.tolist() == table.samples[0].tolist() for samples in table.samples)
