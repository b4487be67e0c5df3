"""Which file lies behind which sample."""

import os
import shutil
from pathlib import Path

import pytest

from storage.samples import SampleTable, files_of, pin
from storage.shards import Shard
from storage.versions import Version
from tests import odd, toy

CLASSES = ("dogs", "cats")


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
