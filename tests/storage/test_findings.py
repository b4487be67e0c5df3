"""What a run says of its images before it works on them: found by a plan alone, named by name."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from storage.findings import findings, unusable_classes
from storage.handover import load_plan, prepare, save_plan
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
        ({"cats": 30, "dogs": 30, "eels": 1}, ["images of 'eels'.*; the hash of the bytes decides the side"]),
        ({"cats": 30}, ["there is one class, 'cats', and training needs two$"]),
        ({"photos/cats": 30, "photos/dogs": 30}, ["one class, 'photos'.*'cats', 'dogs', give --images {root}/photos$"]),
        ({"photos/cats": 30}, ["there is one class, 'photos', and training needs two$"]),
        ({"Cats": 20, "cats": 20, "dogs": 20}, ["classes of which case.*'Cats', 'cats'$"]),
        (
            {"cats ": 20, "cats": 20, "dogs": 20},
            ["begin or end with white space: 'cats '$", "classes of which case.*'cats', 'cats '$"],
        ),
        ({" cats": 30, " dogs": 30}, ["begin or end with white space: ' cats', ' dogs'$"]),
        ({"caf\u00e9": 20, "cafe\u0301": 20, "dogs": 20}, [r"classes of which case.*'cafe\\u0301', 'caf\\xe9'$"]),
    ],
)
def test_what_is_likely_a_mistake_is_one_line_that_names_it(tmp_path, store, counts, said):
    found = warnings(told(tmp_path / "images", counts, store))
    assert len(found) == len(said), found
    for line, expected in zip(found, said, strict=True):
        pattern = expected.replace("{root}", str(tmp_path / "images"))
        assert re.search(pattern, line), line


def test_the_path_that_is_advised_for_a_wrapper_has_its_classes(tmp_path, store):
    (line,) = warnings(told(tmp_path / "images", {"a b/cats": 30, "a b/dogs": 30}, store))
    (advised,) = shlex.split(line.rpartition("--images ")[2])
    assert warnings(list(toy.plan(Path(advised), tmp_path / "other").findings)) == []


def test_equal_bytes_under_two_classes_are_told_with_an_example(tmp_path, store):
    root = folders(tmp_path / "images", {"cats": 20, "dogs": 20})
    shutil.copy(root / "cats/3.png", root / "dogs/copy.png")
    shutil.copy(root / "cats/3.png", root / "cats/copy.png")
    (line,) = warnings(list(toy.plan(root, store).findings))
    assert line == "warning: 3 images have the bytes of an image of another class, as 'cats/3.png' and 'dogs/copy.png'"


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_equal_bytes_on_both_sides_of_training_are_told_with_an_example(tmp_path, store, held_out):
    root = folders(tmp_path / "images", WELL)
    (root / held_out / "cats").mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "train/cats/1.png", root / held_out / "cats/copy.png")
    (line,) = warnings(list(toy.plan(root, store).findings))
    assert line.startswith("warning: 1 image of validation or test have the bytes of a training image")
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
    assert line == "no image of 'eels' is usable (1 not_image): no head knows that class"
    assert f"warning: {line}" in toy.plan(root, store).findings
    assert f"warning: {line}" not in planned.findings


def test_classes_that_are_not_asked_for_are_told_and_not_warned_of(tmp_path, store):
    lines = told(tmp_path / "images", WELL | {"train/eels": 1, "test/newts": 3}, store, classes=("dogs", "cats"))
    assert warnings(lines) == ["warning: --classes leaves out 4 images of 'eels', 'newts'"]


def test_an_emptied_folder_has_findings_too(images, store):
    files = toy.plan(images, store).files
    assert findings(files.slice(0, 0), "/photos") == [
        "warning: there are no images in train and validation: features are extracted, but no head can be trained"
    ]


def test_names_cannot_write_on_the_terminal(tmp_path, store):
    lines = told(tmp_path / "images", {"\x1b[31mred": 3, "\x1b[31mRED": 3, "a\nb": 3}, store)
    assert all(line.isprintable() for line in lines)


def test_the_findings_come_with_the_plan_that_is_handed_over(images, store):
    planned = toy.plan(images, store)
    where = toy.space(images, store).store
    prepare(where.cache / "plans")
    assert load_plan(where, save_plan(planned, where.cache / "plans")).findings == planned.findings
