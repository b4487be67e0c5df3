"""What an evaluation takes as its images, and what it refuses."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import InputError
from storage.heads.registry import read_head
from storage.layout import Store
from tests import toy
from workers.jobs.labelled import check_computable, left_out, list_folder, list_split, trained_on
from workers.jobs.opened_head import OpenedHead, open_head
from workers.jobs.prediction_plan import make_plan
from workers.jobs.records import Space
from workers.jobs.spaces import stored_space

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def golden(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    for name in ("images", "store"):
        shutil.copytree(GOLDEN / name, root / name, copy_function=shutil.copyfile)
    return root


@pytest.fixture
def head(golden: Path) -> OpenedHead:
    return open_head(golden / "store")


@pytest.fixture
def space(golden: Path, head: OpenedHead) -> Space:
    return stored_space(Store(golden / "store", head.fingerprint))


def test_the_splits_of_a_version_are_the_samples_of_its_head(golden, head, space, tmp_path):
    samples = read_head(Store(golden / "store", ""), head.name)["samples"]
    for split, seen in (("train", samples["train"]), ("validation", 0)):
        listed = list_split(space, head, tmp_path / split, split, None, None)
        assert (listed.files, listed.version) == (samples[split], head.version)
        assert trained_on(listed, head, space) == seen


def test_a_folder_counts_the_images_that_the_head_was_trained_on(golden, head, space, tmp_path):
    listed = list_folder(space, head, tmp_path / "cache", str(golden / "images"))
    assert trained_on(listed, head, space) == head.record["samples"]["train"]
    assert left_out(listed, head) == ""


def test_classes_that_the_head_does_not_know_are_left_out_with_their_number(head, space, tmp_path):
    toy.pictures(tmp_path / "photos", 2, ("cats", "Dogs", "ships"))
    listed = list_folder(space, head, tmp_path / "cache", str(tmp_path / "photos"))
    assert (listed.files, listed.unknown) == (2, {"Dogs": 2, "ships": 2})
    assert set(listed.files_table["class"].to_pylist()) == {"cats"}
    said = left_out(listed, head)
    assert "4 images left out" in said
    assert "'Dogs' is like 'dogs'" in said


def test_a_table_gives_the_classes_of_files_in_any_folder(head, space, tmp_path):
    toy.picture(tmp_path / "photos/a.png", 1)
    toy.picture(tmp_path / "photos/deep/b.png", 2)
    (tmp_path / "labels.csv").write_text("path,class\na.png,cats\ndeep/b.png,dogs\n")
    listed = list_folder(space, head, tmp_path / "cache", str(tmp_path / "photos"), labels=str(tmp_path / "labels.csv"))
    assert listed.files_table["class"].to_pylist() == ["cats", "dogs"]


def test_images_without_stored_features_need_their_folder_and_weights(golden, head, space, tmp_path):
    empty = replace(space, fingerprint="0" * 32)
    listed = list_split(space, head, tmp_path / "cache", "validation", None, None)
    plan = make_plan(empty, listed, head, tmp_path / "pieces")
    assert plan.images == listed.files
    with pytest.raises(InputError, match="name the folder of the images as `images`"):
        check_computable(plan, listed, head)
    with pytest.raises(InputError, match="takes images"):
        check_computable(plan, listed, replace(head, is_whole=True))
    with pytest.raises(InputError, match="give them once as `weights`"):
        check_computable(plan, replace(listed, root=str(golden / "images")), head)
    check_computable(make_plan(space, listed, head, tmp_path / "pieces"), listed, head)


def test_a_version_that_was_collected_is_named_with_those_that_are_left(head, space, tmp_path):
    gone = replace(head, version=2**31)
    with pytest.raises(InputError, match=f"on which head {head.name} was trained, is not in .*`version`: 1 to 3"):
        list_split(space, gone, tmp_path / "cache", "validation", None, None)
    with pytest.raises(InputError, match=r"^version 99 is not in"):
        list_split(space, head, tmp_path / "cache", "validation", 99, None)


def test_features_are_read_from_the_version_that_is_asked_for(head, space, tmp_path):
    listed = list_split(space, head, tmp_path / "cache", "validation", head.version, None)
    plan = make_plan(space, listed, head, tmp_path / "pieces", version=head.version)
    assert (plan.version, plan.images, plan.stored) == (head.version, 0, listed.files)
