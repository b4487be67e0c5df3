"""A layout that would label images otherwise than the newest version does."""

import shutil
from pathlib import Path
from zlib import crc32

import pytest

from storage.errors import InputError, LayoutChanged
from storage.manifest.file_table import CONTENT_COLUMNS
from storage.manifest.versions import Version, version_numbers
from storage.planning.plan import Plan
from tests import toy

STORE = "store"


def grow(root: Path, *tops: str, number: int = 3, classes: tuple[str, ...] = ("cats", "dogs")) -> Path:
    """Pictures in folders of classes below each of `tops`, each of another content."""
    for top in tops:
        for name in classes:
            for index in range(number):
                path = root / top / name / f"{index}.png"
                toy.picture(path, crc32(f"{top} {name} {index}".encode()))
    return root


def flat(root: Path, *tops: str, number: int = 3) -> Path:
    for top in tops:
        for index in range(number):
            toy.picture(root / top / f"{index}.png", crc32(f"{top} {index}".encode()))
    return root


def by_path(plan_or_version: Plan | Version, images: Path, store: Path) -> dict[bytes, tuple[str, str]]:
    files = (
        plan_or_version.files
        if isinstance(plan_or_version, Plan)
        else plan_or_version.read_files(toy.space(images, store).store)
    )
    return {row["path"]: (row["class"], row["split"]) for row in files.to_pylist()}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / STORE


def refused(images: Path, store: Path, **options) -> str:
    """Why no run may go on; nothing was committed."""
    before = version_numbers(toy.space(images, store).store)
    with pytest.raises(LayoutChanged) as raised:
        toy.run(images, store, **options)
    assert version_numbers(toy.space(images, store).store) == before
    return str(raised.value)


def test_a_new_folder_beside_splits_relabels_nothing_and_the_advice_works(images, store):
    toy.run(grow(images, "train", "validation"), store)
    grow(images, "new")
    complaint = refused(images, store)
    assert "12 of 12 images differently than version 1" in complaint
    assert "`allow_relabels`" not in complaint  # it would not help
    assert "`layout=classes`" in complaint
    assert toy.run(images, store, layout="classes")[0].changes.relabelled == 12


def test_an_empty_folder_beside_splits_changes_nothing(images, store):
    toy.run(grow(images, "train", "validation"), store)
    (images / "new").mkdir()
    assert not toy.plan(images, store).needs_commit


def test_a_validation_folder_that_has_gone_takes_no_image_from_train_unless_allowed(images, store):
    toy.run(grow(images, "train", "validation", number=20), store)
    shutil.rmtree(images / "validation")
    (images / "validation").mkdir()
    assert "40 validation images" in refused(images, store, allow_removals=True)
    planned, _ = toy.run(images, store, allow_removals=True, allow_relabels=True)
    assert planned.changes.moved
    assert not toy.plan(images, store).needs_commit  # it is held out from now on


def test_a_validation_folder_may_be_added_to_train_alone(images, store):
    toy.run(grow(images, "train", number=20), store)
    grow(images, "validation")
    planned, _ = toy.run(images, store)
    assert planned.changes.relabelled == 0


def test_labels_from_a_table_are_not_given_up_for_those_of_folders(images, store, tmp_path):
    flat(images, "one", "two")
    (tmp_path / "l.csv").write_text(
        "path,class\n"
        + "".join(f"{top}/{index}.png,{'xy'[index % 2]}\n" for top in ("one", "two") for index in range(3))
    )
    toy.run(images, store, labels=tmp_path / "l.csv")
    assert "`labels` if they came from a table" in refused(images, store)
    assert not toy.plan(images, store, labels=tmp_path / "l.csv").needs_commit
    assert toy.plan(images, store, allow_relabels=True).changes.relabelled == 6


@pytest.mark.parametrize(
    "make",
    [
        lambda root: grow(root, "Train", "Test"),
        lambda root: grow(root, "training_set", "dev", "eval"),
        lambda root: grow(root, "a", "b"),
        lambda root: grow(root, "train", "new"),
        lambda root: flat(root, "Training", "Testing"),
        lambda root: grow(root, "cats", "dogs", classes=("train", "test")),
        lambda root: grow(root, "cats", "dogs", classes=("train", "val")),
        lambda root: grow(root, "dataset"),
        lambda root: grow(root, "train", "val", "new"),
        lambda root: flat(grow(root, "Train", "Test"), "Train"),
    ],
    ids=[
        "splits in other case", "synonyms", "same folders", "a split and a stranger", "flat splits", "splits in classes",
        "train and val in classes", "wrapper", "splits and a stranger", "an image beside class folders",
    ],
)  # fmt: skip
def test_a_store_whose_classes_are_the_first_folders_goes_on_with_them(images, store, make):
    make(images)
    _, version = toy.run(images, store, layout="classes")  # as versions before took such folders
    planned = toy.plan(images, store)
    assert not planned.needs_commit
    assert planned.files.select(CONTENT_COLUMNS).equals(
        version.read_files(toy.space(images, store).store).select(CONTENT_COLUMNS)
    )
    flat(images, "birds")
    told = by_path(toy.plan(images, store), images, store)
    assert {path: label for path, label in told.items() if not path.startswith(b"birds/")} == by_path(
        version, images, store
    )


@pytest.mark.parametrize("tops", [("Train", "Test"), ("dataset",), ("a", "b")])
def test_what_a_store_goes_on_with_is_said_and_the_way_out_works(images, store, tops):
    toy.run(grow(images, *tops), store, layout="classes")
    told = " ".join(toy.plan(images, store).findings)
    assert "the first-level folders are the classes, as in version 1" in told
    can_change = "`allow_relabels` labels the images by their folders" in told
    assert can_change == (tops != ("a", "b"))
    if can_change:
        assert toy.plan(images, store, allow_relabels=True).changes.relabelled == 6 * len(tops)


def test_a_split_that_comes_to_a_store_of_classes_is_no_further_class_without_a_word(images, store):
    toy.run(flat(images, "cats", "dogs"), store)
    grow(images, "train", "test")
    complaint = refused(images, store)
    assert "6 of 6 images differently than version 1" in complaint
    assert "`layout=classes` keeps the labels" in complaint
    assert toy.plan(images, store, layout="classes").changes.relabelled == 0


def test_moving_images_between_folders_relabels_them_and_is_no_change_of_layout(images, store):
    toy.run(flat(images, "cats", "dogs"), store)
    (images / "cats").rename(images / "lions")
    assert toy.plan(images, store).changes.relabelled == 3


def test_folders_may_be_put_into_splits(images, store):
    toy.run(flat(images, "cats", "dogs", number=10), store)
    for name in ("cats", "dogs"):
        (images / "train").mkdir(exist_ok=True)
        (images / name).rename(images / "train" / name)
    planned, _ = toy.run(images, store)
    assert set(planned.files["class"].to_pylist()) == {"cats", "dogs"}


def test_a_new_fraction_of_validation_is_no_change_of_layout(images, store):
    toy.run(grow(images, "train", "test", number=20), store)
    assert toy.plan(images, store, validation_fraction=0.5).changes.moved


@pytest.mark.parametrize(
    ("tops", "again", "layout"), [((), "again", "classes"), (("train", "val"), "train/again", "splits")]
)
def test_a_set_within_itself_goes_on_where_the_version_has_it_and_is_refused_where_it_is_new(
    images, store, tmp_path, tops, again, layout
):
    grow(images, *(tops or (".",)), again)
    toy.run(images, store, layout=layout)
    planned = toy.plan(images, store)
    assert not planned.needs_commit
    for told in ("as in version 1", "names of its siblings, 'cats', 'dogs'"):
        assert any(told in line for line in planned.findings)
    other = tmp_path / "other"
    toy.run(grow(other, *(tops or (".",))), tmp_path / "other store")
    grow(other, again)
    with pytest.raises(InputError, match=f"{again}/ in .* names of its siblings, 'cats', 'dogs'"):
        toy.plan(other, tmp_path / "other store")


def test_splits_below_a_class_go_on_where_the_version_has_them(images, store):
    grow(images, "cats/old", "dogs/old", classes=("train", "test"))
    toy.run(images, store, layout="classes")
    planned = toy.plan(images, store)
    assert not planned.needs_commit
    assert any("look like splits within a class" in line for line in planned.findings)


def test_splits_within_classes_are_not_forgotten_when_they_become_doubtful(images, store):
    grow(images, "cats", "dogs", classes=("train", "val", "test"))
    toy.run(images, store)
    shutil.rmtree(images / "dogs" / "test")
    (images / "cats" / "test").rename(images / "cats" / "old")
    with pytest.raises(InputError, match="look like splits within a class"):
        toy.plan(images, store, allow_removals=True)
