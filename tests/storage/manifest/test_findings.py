"""What a run says of its images before it works on them: found by a plan alone, named by name."""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from storage.errors import InputError
from storage.manifest.findings import findings, unusable_classes
from storage.planning.plan_files import load_plan, save_plan
from storage.source.ignored import Ignored, suffix_of
from storage.source.scan_files import prepare
from storage.text import as_flags
from tests import toy


def folders(root: Path, counts: dict[str, int]) -> Path:
    """So many pictures in each folder, each of another content."""
    for number, (folder, images) in enumerate(counts.items()):
        for index in range(images):
            toy.picture(root / folder / f"{index}.png", 1000 * number + index)
    return root


def told(root: Path, counts: dict[str, int], store: Path, **options) -> list[str]:
    return list(toy.plan(folders(root, counts), store, **options).findings)


WELL = {f"{split}/{name}": 2 for split in ("train", "validation") for name in ("cats", "dogs")}


def warnings(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("warning: ")]


def test_images_are_counted_by_split_and_class_and_a_good_folder_has_no_warning(tmp_path, store):
    lines = told(tmp_path / "images", WELL | {"test/dogs": 1}, store)
    assert [line.split() for line in lines] == [
        ["found", "images", "train", "validation", "test", "all"],
        ["cats", "2", "2", "0", "4"],
        ["dogs", "2", "2", "1", "5"],
        ["all", "2", "classes", "4", "4", "1", "9"],
    ]


def test_many_classes_are_folded(tmp_path, store):
    lines = told(tmp_path / "images", {f"class-{index:02}": 1 for index in range(30)}, store)
    assert "  ... and 10 more" in lines
    assert max(map(len, lines)) < 300


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (WELL | {"train/eels": 1}, ["no validation images of 'eels'"]),
        (WELL | {"validation/eels": 1}, ["no training images of 'eels'"]),
        (WELL | {"test/eels": 1}, ["only test images of 'eels': the head has no output for them"]),
        ({"train/cats": 2, "train/dogs": 2, "test/cats": 1}, ["there are no images in validation"]),
        ({"cats": 30, "dogs": 30, "eels": 1}, ["images of 'eels'.*; a hash of the bytes decides the split"]),
        ({"cats": 30}, ["there is only one class, 'cats', but training needs two$"]),
        ({"Cats": 20, "cats": 20, "dogs": 20}, ["class names that differ only in case.*'Cats', 'cats'$"]),
        (
            {"cats ": 20, "cats": 20, "dogs": 20},
            ["begin or end with white space: 'cats '$", "class names that differ only in case.*'cats', 'cats '$"],
        ),
        ({" cats": 30, " dogs": 30}, ["begin or end with white space: ' cats', ' dogs'$"]),
        (
            {"caf\u00e9": 20, "cafe\u0301": 20, "dogs": 20},
            [r"class names that differ only in case.*'cafe\\u0301', 'caf\\xe9'$"],
        ),
    ],
)
def test_what_is_likely_a_mistake_is_one_line_that_names_it(tmp_path, store, counts, said):
    found = warnings(told(tmp_path / "images", counts, store))
    assert len(found) == len(said), found
    for line, expected in zip(found, said, strict=True):
        assert re.search(expected, line), line


def test_the_path_that_is_advised_for_a_folder_around_the_classes_has_them(tmp_path, store):
    """One that was asked for as a class, or that a store has had as one."""
    (line,) = warnings(told(tmp_path / "images", {"a b/cats": 30, "a b/dogs": 30}, store, layout="classes"))
    assert (
        "there is only one class, 'a b', but training needs two; if the classes are the folders in it, 'cats', 'dogs'"
        in line
    )
    (advised,) = shlex.split(as_flags(line).rpartition("--images ")[2])
    assert warnings(list(toy.plan(Path(advised), tmp_path / "other").findings)) == []


def test_splits_in_a_single_class_are_no_classes_to_advise(tmp_path, store):
    lines = warnings(told(tmp_path / "images", {"images/train": 3, "images/val": 3}, store))
    assert any(line.endswith("there is only one class, 'images', but training needs two") for line in lines)


def test_equal_bytes_under_two_classes_are_told_with_an_example(tmp_path, store):
    root = folders(tmp_path / "images", {"cats": 20, "dogs": 20})
    shutil.copy(root / "cats/3.png", root / "dogs/copy.png")
    shutil.copy(root / "cats/3.png", root / "cats/copy.png")
    (line,) = warnings(list(toy.plan(root, store).findings))
    assert (
        line
        == "warning: 3 images with the same bytes in different classes, for example 'cats/3.png' and 'dogs/copy.png'"
    )


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_equal_bytes_on_both_sides_of_training_are_told_with_an_example(tmp_path, store, held_out):
    root = folders(tmp_path / "images", WELL)
    (root / held_out / "cats").mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "train/cats/1.png", root / held_out / "cats/copy.png")
    (line,) = warnings(list(toy.plan(root, store).findings))
    assert line.startswith("warning: 1 validation or test image with the same bytes as a training image")
    assert f"'{held_out}/cats/copy.png'" in line


def test_equal_bytes_in_validation_and_test_alone_are_no_fault_of_the_training(tmp_path, store):
    root = folders(tmp_path / "images", WELL)
    (root / "test/cats").mkdir(parents=True)
    shutil.copy(root / "validation/cats/1.png", root / "test/cats/copy.png")
    assert warnings(list(toy.plan(root, store).findings)) == []


def test_a_class_all_of_whose_images_are_unusable_is_named_with_the_reason(tmp_path, store):
    root = folders(tmp_path / "images", {"cats": 200, "dogs": 200})
    (root / "eels").mkdir()
    (root / "eels/1.png").write_bytes(b"an error page")
    planned, version = toy.run(root, store)
    (line,) = unusable_classes(version.read_files(toy.space(root, store).store))
    assert line == "class 'eels' has no usable image (1 not_image): no head learns it"
    assert f"warning: {line}" in toy.plan(root, store).findings
    assert f"warning: {line}" not in planned.findings


@pytest.mark.parametrize(("root", "where"), [(".", ""), ("train", " in train")])
def test_a_class_none_of_whose_files_is_read_is_named_with_their_suffixes(tmp_path, store, root, where):
    counts = {f"{root}/cats": 20, f"{root}/dogs": 20} | (
        {"validation/lynxes": 9, "validation/cats": 9} if where else {}
    )
    images = folders(tmp_path / "images", counts)
    for name in ("1.tif", "2.tif", "deep/3.TIF", "1.jpg?width=400", ".DS_Store"):
        (images / root / "lynxes" / name).parent.mkdir(parents=True, exist_ok=True)
        (images / root / "lynxes" / name).write_bytes(b"")
    lines = toy.plan(images, store).findings
    expected = f"class 'lynxes' has no image files{where}, only 3 .tif, 1 .jpg?width=400, 1 hidden"
    assert f"warning: {expected}" in lines
    assert not [line for line in lines if "without an image" in line]


def test_ignored_files_are_told_by_suffix_the_most_frequent_first(images, store):
    names = [b"a.txt", b"b.TXT", b"c.md", b"noext", b".hidden", b"x.\x1b[31m", *(b"%d.s%d" % (n, n) for n in range(9))]
    for name in names:
        with open(os.path.join(os.fsencode(images / "cats"), name), "wb"):
            pass
    planned = toy.plan(images, store)
    (line,) = (line for line in planned.findings if line.startswith("ignored: "))
    assert line.startswith("ignored: 2 .txt, 1 .\\x1b[31m, 1 .md")
    assert line.endswith(" and 9 others")
    assert line.isprintable()
    assert planned.ignored == 15


def test_kinds_of_ignored_files_take_bounded_memory():
    ignored = Ignored()
    for number in range(20_000):
        ignored.add(b"%d/" % number, suffix_of(b"1.%d" % number))
    assert (ignored.number, len(ignored.kinds), len(ignored.folders)) == (20_000, 1_001, 10_000)
    assert len(suffix_of(b"1." + b"x" * 500)) == 16


def test_an_error_of_a_folder_without_images_has_the_suffixes(tmp_path, store):
    (tmp_path / "images" / "cats").mkdir(parents=True)
    (tmp_path / "images" / "cats" / "1.tif").write_bytes(b"")
    with pytest.raises(InputError, match=r"no images in .*1 \.tif"):
        toy.plan(tmp_path / "images", store)


def test_classes_that_are_not_asked_for_are_told_and_not_warned_of(tmp_path, store):
    lines = told(tmp_path / "images", WELL | {"train/eels": 1, "test/newts": 3}, store, classes=("dogs", "cats"))
    assert warnings(lines) == ["warning: `classes` leaves out 4 images of 'eels', 'newts'"]


def test_an_emptied_folder_has_findings_too(images, store):
    files = toy.plan(images, store).files
    assert findings(files.slice(0, 0), "/photos") == [
        "warning: there are no images in train and validation: the run extracts features but cannot train a head"
    ]


def test_names_cannot_write_on_the_terminal(tmp_path, store):
    lines = told(tmp_path / "images", {"\x1b[31mred": 3, "\x1b[31mRED": 3, "a\nb": 3}, store)
    assert all(line.isprintable() for line in lines)


def test_the_findings_come_with_the_plan_that_is_handed_over(images, store):
    planned = toy.plan(images, store)
    where = toy.space(images, store).store
    prepare(where.cache / "plans")
    assert load_plan(where, save_plan(planned, where.cache / "plans")).findings == planned.findings
