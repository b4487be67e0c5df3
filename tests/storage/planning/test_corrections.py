"""Files of corrections: images that are left out or have another class, recorded in the version and reversible."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import InputError
from storage.maintenance.collect import collect
from storage.maintenance.repair import repair_space
from storage.maintenance.verify import verify_space
from storage.manifest.versions import Version, latest_version, precedent
from storage.planning.plan import Plan
from tests import toy


def written(path: Path, *rows: str) -> str:
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def classes_in(images: Path, store: Path, version: Version) -> dict[str, str]:
    files = version.read_files(toy.space(images, store).store)
    return {row["path"].decode(): row["class"] for row in files.to_pylist()}


def corrections_in(images: Path, store: Path, version: Version) -> list[tuple]:
    found = version.read_corrections(toy.space(images, store).store).to_pylist()
    return [(row["path"].decode(), row["listed"], row["class"]) for row in found]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def said(plan: Plan, words: str) -> bool:
    return any(words in line for line in plan.findings)


def test_corrections_take_effect_are_recorded_and_taken_back(images, store, tmp_path):
    _, first = toy.run(images, store)
    exclude = written(tmp_path / "exclude.csv", "path", "cats/003.png", "dogs/004.png")
    relabel = written(tmp_path / "relabel.csv", "path,class", "cats/005.png,dogs")
    plan, second = toy.run(images, store, exclude=exclude, relabel=relabel)
    assert said(plan, "2 images excluded, 1 relabelled")
    found = classes_in(images, store, second)
    assert found.keys() == classes_in(images, store, first).keys() - {"cats/003.png", "dogs/004.png"}
    assert found["cats/005.png"] == "dogs"
    assert second.data_digest != first.data_digest
    assert corrections_in(images, store, second) == [
        ("cats/003.png", "cats", None),
        ("cats/005.png", "cats", "dogs"),
        ("dogs/004.png", "dogs", None),
    ]
    assert not toy.plan(images, store, exclude=exclude, relabel=relabel).needs_commit
    back, third = toy.run(images, store)
    assert said(
        back, "version 2 had corrections that are not given now: 2 images that it excluded are back, and 1 image"
    )
    assert back.todo.num_rows == 0
    assert (third.data_digest, third.corrections) == (first.data_digest, ())


def test_one_reviewed_file_serves_both(images, store, tmp_path):
    review = written(
        tmp_path / "review.csv",
        "action,path,class,finding",
        "exclude,cats/003.png,,leak",
        "relabel,cats/005.png,dogs,suspect",
        "keep,cats/006.png,dogs,suspect",
        ",cats/007.png,dogs,suspect",
    )
    _, version = toy.run(images, store, exclude=review, relabel=review)
    assert corrections_in(images, store, version) == [("cats/003.png", "cats", None), ("cats/005.png", "cats", "dogs")]


def test_a_moved_file_is_found_by_its_digest_and_other_bytes_are_not_judged(images, store, tmp_path):
    moved, changed = images / "cats/001.png", images / "cats/002.png"
    rows = [f"{path.relative_to(images)},{sha256(path)}" for path in (moved, changed)]
    exclude = written(tmp_path / "exclude.csv", "path,digest", *rows)
    moved.rename(images / "dogs/moved.png")
    toy.picture(changed, seed=77)
    plan, version = toy.run(images, store, exclude=exclude)
    assert corrections_in(images, store, version) == [("dogs/moved.png", "dogs", None)]
    assert said(plan, "1 of 2 rows in `exclude` match no image, for example 'cats/002.png'")


def test_a_row_is_about_one_copy_and_a_digest_alone_about_all(images, store, tmp_path):
    one, other = images / "cats/001.png", images / "dogs/copy.png"
    other.write_bytes(one.read_bytes())
    both = written(tmp_path / "both.csv", "path,digest", f"dogs/copy.png,{sha256(one)}")
    _, version = toy.run(images, store, exclude=both)
    assert corrections_in(images, store, version) == [("dogs/copy.png", "dogs", None)]
    gone = written(tmp_path / "gone.csv", "path,digest", f"dogs/gone.png,{sha256(one)}")
    assert said(toy.plan(images, store, exclude=gone), "several files have its bytes")
    alone = written(tmp_path / "alone.csv", "digest", sha256(one))
    assert toy.plan(images, store, exclude=alone).corrections.num_rows == 2


def test_a_table_of_labels_is_corrected_too_and_a_new_class_is_told(images, store, tmp_path):
    labels = tmp_path / "labels.csv"
    written(labels, "path,class", *(f"cats/{n:03d}.png,{'big' if n % 2 else 'small'}" for n in range(10)))
    relabel = tmp_path / "relabel.parquet"
    pq.write_table(pa.table({"path": [b"cats/003.png"], "class": ["huge"]}), relabel)
    plan, version = toy.run(images, store, labels=labels, relabel=str(relabel))
    assert classes_in(images, store, version)["cats/003.png"] == "huge"
    assert said(plan, "`relabel` creates the class 'huge'")


def test_excluded_images_are_no_removals(images, store, tmp_path):
    toy.run(images, store)
    many = written(tmp_path / "many.csv", "path", *(f"cats/{n:03d}.png" for n in range(8)))
    assert toy.plan(images, store, exclude=many).changes.removed == 8


def test_the_labels_of_folders_are_compared_without_corrections(images, store, tmp_path):
    relabel = written(tmp_path / "relabel.csv", "path,class", "cats/005.png,birds")
    toy.run(images, store, relabel=relabel)
    before = precedent(toy.space(images, store).store)
    assert before is not None
    assert before.names == {"cats", "dogs"}
    listed = {row["path"]: row["class"] for piece in before.files() for row in piece.to_pylist()}
    assert listed[b"cats/005.png"] == "cats"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["name", "cats/001.png"], "has no column path or digest"),
        (["path", "cats/001.png"], "has no column class"),
        (["path,class", "cats/001.png,"], "has no class in row 1"),
        (["path,class", "cats/001.png,dogs", "cats/001.png,birds"], "keep one of the rows"),
        (["path,class,digest", "cats/001.png,dogs,12"], "expected 64 hex digits"),
        (["path,class,action", "cats/001.png,dogs,drop"], "expected exclude, relabel, keep or nothing"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(images, store, tmp_path, rows, words):
    with pytest.raises(InputError, match=words):
        toy.plan(images, store, relabel=written(tmp_path / "relabel.csv", *rows))


def test_maintenance_keeps_corrections_and_repair_loses_only_a_damaged_record(images, store, tmp_path):
    exclude = written(tmp_path / "exclude.csv", "path", "cats/003.png")
    _, version = toy.run(images, store, exclude=exclude)
    where = toy.space(images, store).store
    collect(where.root, 1, 0)
    assert list(verify_space(where, True)) == []
    path = where.segment(version.corrections[0])
    path.write_bytes(b"damaged")
    assert len(list(verify_space(where, True))) >= 1
    repair_space(where, True)
    mended = latest_version(where)
    assert mended is not None
    assert (mended.corrections, mended.data_digest) == ((), version.data_digest)
    _, again = toy.run(images, store, exclude=exclude)
    assert again.corrections == version.corrections
