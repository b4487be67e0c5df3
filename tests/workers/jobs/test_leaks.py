"""Leaks, conflicts and redundant images of a version, on tiny real pictures."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.manifest.versions import latest_version
from tests import toy
from workers.jobs.leaks import find_leaks


def scene(path: Path, seed: int, **edit) -> Path:
    """A smooth picture, so that it survives recompression; `edit` mirrors or shrinks it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        (96, 96), Image.Resampling.BICUBIC
    )
    if edit.get("mirrored"):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image.resize(edit.get("size", image.size)).save(path, "JPEG", quality=edit.get("quality", 95))
    return path


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> Path:
    """Pictures with a leak, a conflict and copies made on purpose, in a store with given splits."""
    root = tmp_path_factory.mktemp("leaks")
    images = root / "images"
    for index in range(8):
        scene(images / f"train/cats/{index}.jpg", index)
        scene(images / f"train/dogs/{index}.jpg", 100 + index)
        scene(images / f"validation/cats/{index}.jpg", 200 + index)
        scene(images / f"validation/dogs/{index}.jpg", 300 + index)
    scene(images / "validation/cats/leak.jpg", 3, quality=60, size=(80, 70))
    scene(images / "train/dogs/conflict.jpg", 5, size=(48, 48))
    shutil.copy(images / "train/cats/6.jpg", images / "train/cats/copy.jpg")
    shutil.copy(images / "train/dogs/7.jpg", images / "validation/dogs/exact.jpg")
    toy.run(images, root / "store")
    return root


def leaks_of(known: Path, images: Path | None = None):
    space = toy.space(images or known / "images", known / "store")
    version = latest_version(space.store)
    assert version is not None
    return find_leaks(space, version)


def test_what_was_made_on_purpose_is_found_and_nothing_else(known):
    found = leaks_of(known)
    rows = [(row["finding"], row["path"].decode(), row["partner"].decode()) for row in found.table.to_pylist()]
    assert rows == [
        ("leak", "train/cats/3.jpg", "validation/cats/leak.jpg"),
        ("leak", "train/dogs/7.jpg", "validation/dogs/exact.jpg"),
        ("conflict", "train/cats/5.jpg", "train/dogs/conflict.jpg"),
        ("conflict", "train/dogs/conflict.jpg", "train/cats/5.jpg"),
        ("redundant", "train/cats/copy.jpg", "train/cats/6.jpg"),
    ]
    scores = found.table["score"].to_pylist()
    assert scores[1] == scores[4] == 1.0
    assert all(0.9 <= score < 1 for score in (scores[0], scores[2], scores[3]))
    assert (found.unread, found.cut) == (0, 0)
    assert set(found.table["split"].to_pylist()) == {"train"}


def test_files_that_cannot_be_read_are_counted_and_equal_bytes_are_found_without_them(known, tmp_path):
    found = leaks_of(known, tmp_path)
    assert found.unread >= 4
    assert [row["score"] for row in found.table.to_pylist()] == [1.0, 1.0]


def test_a_version_without_twins_has_no_findings(images, store):
    space = toy.space(images, store)
    _, version = toy.run(images, store)
    assert find_leaks(space, version).table.num_rows == 0
