"""What folders as people have them are taken for: never a split for a class without a word."""

import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage.errors import InputError
from storage.source.folder_layout import FolderLayout, tree_of
from storage.source.layout_guess import guess
from storage.source.scan import scan_folder
from storage.source.scan_table import Scan
from storage.source.splits import PLAIN, splits_of
from storage.text import as_flags
from tests import toy
from tests.examples import examples


def write(root: Path, *paths: str) -> Path:
    for index, path in enumerate(paths):
        toy.picture(root / path, index) if path.endswith(".png") else (root / path).mkdir(parents=True)
    return root


def labels(scan: Scan) -> dict[str, tuple[str | None, str]]:
    return {os.fsdecode(row["path"]): (row["split"], row["class"]) for row in scan.files.to_pylist()}


def of(*paths: str, asked="auto") -> FolderLayout:
    """The layout of images at these paths, without a file."""
    folders: dict[bytes, int] = {}
    for path in paths:
        folder = path[: path.rfind("/") + 1].encode()
        folders[folder] = folders.get(folder, 0) + 1
    return guess(tree_of(folders), "photos", asked)


def found(*paths: str, asked="auto") -> dict[str, tuple[str | None, str] | None]:
    """Path → (split, class), None for an image that is left out. Fails where the layout is doubtful."""
    layout = of(*paths, asked=asked)
    assert not layout.doubt
    told = {path: layout.label(path[: path.rfind("/") + 1].encode()) for path in paths}
    return {path: label and (label.split, label.name) for path, label in told.items()}


def tree(tops: str, classes: str = "cats dogs", below: str = "") -> list[str]:
    return [f"{top}/{below}{name}/1.png" for top in tops.split() for name in classes.split()]


@pytest.mark.parametrize(
    ("tops", "meant"),
    [
        ("Train Test Val", "train test validation"),
        ("TRAIN VALIDATION TEST", "train validation test"),
        ("Training Testing valid", "train test validation"),
        ("training_set test_set val_set", "train test validation"),
        ("train dev eval", "train validation test"),
        ("train Validation", "train validation"),
        ("train eval", "train validation"),
        ("train holdout test", "train validation test"),
        ("train2017 val2017 test2017", "train validation test"),
        ("seg_train seg_test seg_val", "train test validation"),
    ],
)
def test_splits_are_known_by_their_usual_names_and_what_was_read_is_said(tops, meant):
    paths = tree(tops)
    names = dict(zip(tops.split(), meant.split(), strict=True))
    assert found(*paths) == {path: (names[path.split("/")[0]], path.split("/")[1]) for path in paths}
    (remark,) = of(*paths).remarks
    assert all(f"'{name}'" in remark for name in names if name not in PLAIN)


@pytest.mark.parametrize("tops", ["trainers test_tubes", "Valencia Testarossa Trainspotting", "cats dogs"])
def test_names_that_merely_contain_a_split_are_classes(tops):
    paths = [f"{top}/{index}.png" for top in tops.split() for index in range(2)]
    assert found(*paths) == {path: (None, path.split("/")[0]) for path in paths}
    assert of(*paths) == FolderLayout()


@pytest.mark.parametrize(
    "paths",
    [
        tree("a b"),
        tree("part1 part2 part3"),
        tree("cats dogs", "2019 2020"),
        [*tree("first second"), "second/birds/1.png", "second/readme.png"],
        [*tree("train validation"), *tree("new")],
        [*tree("train"), "new/1.png"],
        [*tree("train test"), *tree("again", "cats", "train/")],
        ["train/1.png", "test1/1.png", "cats/1.png"],
        ["Training/1.png", "Testing/1.png"],
        ["train/cat.1.png", "test1/1.png"],
        [*tree("cats", "train test"), "dogs/1.png"],
        [*tree("cats", "train test"), "cats/1.png", *tree("dogs", "train test")],
        [*tree("cats dogs", "test"), "cats/1.png", "dogs/1.png"],
        tree("animals plants", "small large", "train/") + tree("animals plants", "small large", "test/"),
        ["cats_train/1.png", "cats_test/1.png", "dogs_train/1.png", "dogs_test/1.png"],
        ["trainA/1.png", "trainB/1.png", "testA/1.png", "testB/1.png"],
        tree("photos/a photos/b"),
        tree("set/a/a set/b/b"),
        [*tree("flowers", "rose tulip"), *tree("flowers/flowers", "rose tulip")],
        [*tree("train val"), *tree("train/train")],
        [*tree("a/train a/test"), *tree("b", "x y")],
        tree("cats dogs", "train val", "images/"),
        ["shapes/shapes/square/1.png", "shapes_test/shapes_test/square/1.png", "shapes_validation/1.png"],
        ["cats/1.png", "cats_test/1.png", "dogs/1.png", "dogs_test/1.png"],
        [*tree("seg_train/seg_train old/seg_test"), "more/1.png"],
        [*tree("images"), "samples/1.png"],
        [*tree("f/data"), *tree("f/more", "x y")],
        [*tree("kept"), *tree("copy/kept")],
        [*tree("pets/x_train pets/x_test"), "unlabelled/1.png"],
    ],
    ids=" ".join,
)
def test_what_can_be_meant_in_two_ways_is_refused_and_the_advice_works(tmp_path, paths):
    write(tmp_path / "images", *paths)
    with pytest.raises(InputError, match="`layout=") as raised:
        toy.plan(tmp_path / "images", tmp_path / "store")
    told = as_flags(str(raised.value))
    assert str(tmp_path / "images") in told
    ways = re.findall(r"(?:--images (\S+) )?--layout (classes|splits) (?:trains|treats)", told)
    assert ways
    for folder in re.findall(r"--images (\S+) uses the folders in it", told):
        assert set(toy.plan(Path(folder), tmp_path / "store").files["class"].to_pylist()) == {"cats", "dogs"}
    for folder, layout in ways:
        root = Path(folder or tmp_path / "images")
        files = toy.plan(root, tmp_path / "store", layout=layout).files
        assert files.num_rows == len(paths)
        first = {path.removeprefix(f"{root.relative_to(tmp_path / 'images')}/").split("/")[0] for path in paths}
        assert len(first) > 1 or layout == "splits"
        assert layout == "splits" or set(files["class"].to_pylist()) == first


def test_a_watcher_sees_images_whose_layout_a_run_would_refuse(tmp_path):
    assert scan_folder(write(tmp_path, *tree("a b"))).files.num_rows == 4


@pytest.mark.parametrize("empty", ["__MACOSX", "logs", "models", "Train 2", "notes"])
@pytest.mark.parametrize("layout", ["auto", "splits"])
def test_a_folder_without_an_image_has_no_say_and_is_mentioned(tmp_path, empty, layout):
    write(tmp_path / "images", *tree("train validation"), empty)
    (tmp_path / "images" / empty / "below").mkdir()
    (tmp_path / "images" / empty / "below" / "notes.txt").write_text("no image")
    planned = toy.plan(tmp_path / "images", tmp_path / "store", layout=layout)
    assert set(planned.files["class"].to_pylist()) == {"cats", "dogs"}
    assert set(planned.files["split"].to_pylist()) == {"train", "validation"}
    assert any(empty in line for line in planned.findings)


def test_images_without_a_class_beside_splits_are_left_out_and_it_is_said():
    paths = [*tree("train test"), "unlabelled/1.png", "unlabelled/2.png"]
    assert found(*paths)["unlabelled/1.png"] is None
    assert "unlabelled/ contains no class folder: 2 images skipped" in of(*paths).remarks
    paths = [*tree("seg_train seg_test"), "seg_pred/seg_pred/1.png"]
    assert found(*paths)["seg_pred/seg_pred/1.png"] is None
    assert "seg_pred/ contains no class folder: 1 image skipped" in of(*paths).remarks


def test_many_folders_that_are_left_out_take_few_lines():
    paths = [*tree("train test"), *(f"heap{index}/1.png" for index in range(60))]
    left_out = [line for line in of(*paths).remarks if "skipped" in line]
    assert len(left_out) == 6
    assert left_out[-1] == "55 more folders without class folders: 55 images skipped"


def test_a_folder_called_images_alone_in_a_split_is_no_class():
    paths = [*tree("train", "n1 n2"), "val/images/1.png", "test/images/1.png"]
    assert set(found(*paths).values()) == {(None, "n1"), (None, "n2"), None}
    assert "val/images/ contains no class folder: 1 image skipped" in of(*paths).remarks
    paths = [*tree("train", "cats dogs", "images/"), *tree("val")]
    assert set(found(*paths).values()) == {(s, c) for s in ("train", "validation") for c in ("cats", "dogs")}
    assert "train/images/ is not a class: the folders in it are the classes" in of(*paths).remarks
    assert set(found(*tree("train val", "images")).values()) == {("train", "images"), ("validation", "images")}
    assert found(*tree("train", "0 1"), *tree("val", "0"))["val/0/1.png"] == ("validation", "0")


def test_a_class_beside_another_that_is_named_like_its_test_split_is_said():
    paths = ["blood/1.png", "blood_test/1.png", "bone/1.png"]
    assert found(*paths)["blood_test/1.png"] == (None, "blood_test")
    assert "treated as classes although named like splits: 'blood', 'blood_test'" in of(*paths).remarks
    assert of("toy/1.png", "toy_train/1.png", "bone/1.png") == FolderLayout()


def test_a_class_with_folders_that_is_named_like_a_split_is_said():
    paths = [*tree("seg_train/seg_train"), "other/1.png"]
    assert set(found(*paths).values()) == {(None, "seg_train"), (None, "other")}
    assert "treated as classes although named like splits: 'seg_train'" in of(*paths).remarks


def test_a_folder_named_like_a_part_of_the_split_above_it_is_no_class():
    paths = [*tree("train", below="seg_train/"), *tree("test", below="seg_test/")]
    assert set(found(*paths).values()) == {(s, c) for s in (None, "test") for c in ("cats", "dogs")}


def test_a_folder_of_one_other_class_in_a_class_is_no_set_in_itself():
    assert set(found("cats/1.png", "dogs/1.png", "dogs/cats/1.png").values()) == {(None, "cats"), (None, "dogs")}


def test_splits_without_class_folders_are_left_out_and_validation_is_held_out_then():
    paths = [*tree("train"), "val/1.png", "test/1.png"]
    assert {path: label for path, label in found(*paths).items() if label} == {
        "train/cats/1.png": (None, "cats"),
        "train/dogs/1.png": (None, "dogs"),
    }
    assert "val/ contains no class folder: 1 image skipped" in of(*paths).remarks


def test_classes_that_are_named_like_splits_of_different_things_are_said():
    paths = ["train_station/1.png", "test_tube/1.png"]
    assert found(*paths)["train_station/1.png"] == (None, "train_station")
    assert "treated as classes although named like splits: 'test_tube', 'train_station'" in of(*paths).remarks


def test_a_class_may_be_named_like_a_split_and_that_is_said():
    paths = ["train/1.png", "car/1.png", "plane/1.png"]
    assert found(*paths)["train/1.png"] == (None, "train")
    assert any("train/" in remark for remark in of(*paths).remarks)


def test_splits_within_each_class_are_splits():
    paths = [*tree("cats dogs", "train val test"), "birds/train/old/2.png"]
    assert found(*paths) == {
        path: ({"val": "validation"}.get(s, s), c) for path in paths for c, s in [path.split("/")[:2]]
    }
    assert found(*paths, asked="splits") == found(*paths)
    assert any("'val' as validation" in remark for remark in of(*paths).remarks)


def test_a_split_folder_in_a_folder_of_its_name_is_one_split():
    paths = [
        f"seg_{split}/seg_{split}/{name}/{index}.png"
        for split in ("train", "test")
        for name in ("sea", "street")
        for index in range(2)
    ]
    told = found(*paths)
    assert set(told.values()) == {(None, "sea"), (None, "street"), ("test", "sea"), ("test", "street")}
    assert found(*tree("training_set/training_set test_set/test_set"))["test_set/test_set/cats/1.png"] == (
        "test",
        "cats",
    )


@pytest.mark.parametrize("wrapper", ["dataset", "archive/dataset", "PetImages"])
def test_one_folder_above_everything_is_no_class_and_is_said(wrapper):
    paths = [f"{wrapper}/cats/1.png", f"{wrapper}/dogs/1.png"]
    assert set(found(*paths).values()) == {(None, "cats"), (None, "dogs")}
    assert f"{wrapper}/" in of(*paths).remarks[0]
    paths = tree(f"{wrapper}/train {wrapper}/val")
    assert set(found(*paths).values()) == {(s, c) for s in ("train", "validation") for c in ("cats", "dogs")}
    paths = tree(f"{wrapper}/cats {wrapper}/dogs", "train val")
    assert set(found(*paths).values()) == {(s, c) for s in ("train", "validation") for c in ("cats", "dogs")}


def test_one_folder_in_each_split_is_no_class_and_is_said():
    paths = tree("train val", "cats dogs", "images/")
    assert set(found(*paths).values()) == {(s, c) for s in ("train", "validation") for c in ("cats", "dogs")}
    assert "'images'" in of(*paths).remarks[0]


def test_several_folders_one_in_another_in_each_split_are_no_classes():
    for below in ("images/data/", "images/seg_train/"):
        paths = [
            *tree("seg_train", below=below),
            *tree("seg_test", below=below.replace("train", "test")),
        ]
        assert set(found(*paths).values()) == {(s, c) for s in (None, "test") for c in ("cats", "dogs")}


def test_a_single_class_is_no_wrapper():
    assert set(found("cats/1.png", "cats/old/2.png").values()) == {(None, "cats")}
    assert set(found("all/cats/1.png").values()) == {(None, "all")}


@pytest.mark.parametrize("tops", ["train", "train test", "Training Testing"])
@pytest.mark.parametrize("layout", ["auto", "splits"])
def test_without_a_validation_folder_a_part_of_train_is_held_out_by_digest(tmp_path, tops, layout):
    for number, top in enumerate(tops.split()):
        for index in range(30):
            toy.picture(tmp_path / "images" / top / ("cats", "dogs")[index % 2] / f"{index}.png", 100 * number + index)
    planned = toy.plan(tmp_path / "images", tmp_path / "store", layout=layout)
    by_top: dict[bytes, set[str]] = {}
    for path, split in zip(planned.files["path"].to_pylist(), planned.files["split"].to_pylist(), strict=True):
        by_top.setdefault(path.split(b"/")[0], set()).add(split)
    expected = {top.encode(): {"train", "validation"} if "rain" in top else {"test"} for top in tops.split()}
    assert by_top == expected
    assert any("`validation_fraction` of the training images is held out" in line for line in planned.findings)
    more = toy.plan(tmp_path / "images", tmp_path / "store", layout=layout, validation_fraction=1.0)
    assert "train" not in more.files["split"].to_pylist()


def test_an_empty_validation_folder_is_as_none(tmp_path):
    write(tmp_path, *tree("train"), "validation/cats")
    scan = scan_folder(tmp_path)
    assert set(scan.files["split"].to_pylist()) == {None}
    assert any("validation" in remark for remark in scan.layout.remarks)


def test_a_validation_folder_that_cannot_be_read_is_there(public, as_a_user):
    write(public / "images", *tree("train validation"))
    (public / "images" / "validation").chmod(0)
    with as_a_user():
        scan = scan_folder(public / "images")
    assert set(scan.files["split"].to_pylist()) == {"train"}


def test_without_validation_in_a_table_a_part_of_train_is_held_out(tmp_path):
    write(tmp_path / "images", *(f"{index}.png" for index in range(30)))
    rows = [
        f"{index}.png,{'cats' if index % 2 else 'dogs'},{'test' if index < 5 else 'Train'}\n" for index in range(30)
    ]
    (tmp_path / "l.csv").write_text("path,class,split\n" + "".join(rows))
    planned = toy.plan(tmp_path / "images", tmp_path / "store", labels=tmp_path / "l.csv")
    splits = planned.files["split"].to_pylist()
    assert splits.count("test") == 5
    assert set(splits) == {"train", "validation", "test"}


SYSTEM = ["@eaDir", "$RECYCLE.BIN", "$Recycle.Bin", "#recycle", "System Volume Information", "lost+found", "__MACOSX"]


@pytest.mark.parametrize("name", SYSTEM)
def test_folders_of_the_system_are_skipped_at_any_depth_and_counted(tmp_path, name):
    plain = ["train/cats/1.png", "validation/cats/2.png"]
    write(tmp_path, *plain, f"{name}/1.png", f"train/{name}/1.png", f"train/cats/deep/{name}/1.png/thumb.png")
    scan = scan_folder(tmp_path)
    assert sorted(labels(scan)) == plain
    assert any("skipped 3 system folders" in remark and name in remark for remark in scan.layout.remarks)


@pytest.mark.parametrize("name", ["@home", "#1", "#recycled", "eaDir", "lost", "$5", "System", "MACOSX"])
def test_a_class_may_look_like_a_folder_of_the_system(tmp_path, name):
    assert labels(scan_folder(write(tmp_path, f"{name}/1.png", "cats/1.png"))) == {
        f"{name}/1.png": (None, name),
        "cats/1.png": (None, "cats"),
    }


def test_links_count_once_in_a_class_wherever_the_classes_are(tmp_path):
    write(tmp_path, *tree("archive/train archive/val", "cats dogs", ""))
    os.symlink(tmp_path / "archive" / "train" / "cats", tmp_path / "archive" / "train" / "dogs" / "link")
    os.symlink(tmp_path / "archive" / "train" / "cats", tmp_path / "archive" / "train" / "cats" / "again")
    assert labels(scan_folder(tmp_path)) == {
        "archive/train/cats/1.png": ("train", "cats"),
        "archive/train/dogs/1.png": ("train", "dogs"),
        "archive/train/dogs/link/1.png": ("train", "dogs"),
        "archive/val/cats/1.png": ("validation", "cats"),
        "archive/val/dogs/1.png": ("validation", "dogs"),
    }


# Any tree

names = st.sampled_from(
    [
        "cats",
        "dogs",
        "a",
        "b",
        "images",
        "train",
        "Train",
        "training_set",
        "val",
        "dev",
        "eval",
        "test",
        "Testing",
        "test1",
    ]
)
trees = st.sets(st.lists(names, max_size=4).map(lambda parts: "/".join([*parts, "1.png"])), min_size=1, max_size=10)


@settings(max_examples=examples(100))
@given(trees)
@example({"Train/cats/1.png", "Test/cats/1.png"})
@example({"cats/1.png", "cats/test/1.png"})
def test_no_split_is_ever_taken_for_a_class_or_trained_on_without_a_word(paths):
    layout = of(*paths)
    told = " ".join(layout.remarks)
    for path in () if layout.doubt else paths:
        label = layout.label(path[: path.rfind("/") + 1].encode())
        folders = path.split("/")[:-1]
        if label is None or not (meant := splits_of(folders)):
            continue
        if splits_of([label.name]):
            assert "treated as classes" in told
        if label.split is None and not layout.held_out:
            assert "treated as classes" in told
        if label.split == "train":
            assert {"train"} <= set(meant.values())


@settings(max_examples=examples(100))
@given(trees)
def test_an_asked_layout_is_taken_or_refused_and_never_doubtful(paths):
    assert of(*paths, asked="classes") == FolderLayout()
    with suppress(InputError):
        assert not of(*paths, asked="splits").doubt


@settings(max_examples=examples(33))
@given(trees, st.randoms())
def test_the_layout_does_not_depend_on_the_order_of_the_folders(paths, random):
    shuffled = list(paths)
    random.shuffle(shuffled)
    assert of(*shuffled) == of(*sorted(paths))
