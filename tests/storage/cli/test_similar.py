"""`python -m storage similar` on tiny pictures."""

import json
import re
import shutil
from pathlib import Path

import pytest

from storage.cli.main import main
from tests import toy


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """A store with an exact copy of an image; its pictures lie beside it."""
    root = tmp_path_factory.mktemp("similar")
    images = toy.pictures(root / "images", per_class=6)
    shutil.copy(images / "cats/001.png", images / "dogs/copy.png")
    (images / "dogs/broken.png").write_bytes(b"nothing")
    toy.run(images, root / "store")
    return root


def call(filled: Path, capsys, image: object, *flags: str) -> tuple[int, str, str]:
    status = main(["similar", str(image), "--store", str(filled / "store"), *flags])
    return (status, *capsys.readouterr())


def test_the_images_come_with_class_and_split_most_similar_first(filled, capsys):
    status, out, _ = call(filled, capsys, "cats/001.png", "--top", "4")
    first, header, *rows = out.splitlines()
    assert status == 0
    assert re.fullmatch(r"cats/001.png: cats, (train|validation) \(version 1\)", first)
    assert header.split() == ["similarity", "class", "split", "image"]
    assert len(rows) == 4
    assert rows[0].split()[::3] == ["1.0000", "dogs/copy.png"]
    similarities = [float(row.split()[0]) for row in rows]
    assert similarities == sorted(similarities, reverse=True)
    assert not any(row.endswith("cats/001.png") for row in rows)


def test_json_has_what_the_table_has_and_the_digests(filled, capsys):
    _, out, _ = call(filled, capsys, "cats/001.png", "--json", "--top", "99")
    found = json.loads(out)
    assert set(found) == {"image", "version", "stored", "digest", "similar"}
    assert set(found["similar"][0]) == {"path", "class", "split", "digest", "similarity"}
    assert len(found["similar"]) == 12  # all usable images but the one that was asked about
    assert found["similar"][0]["digest"] == found["digest"]


def test_a_file_with_stored_bytes_is_not_computed_again(filled, capsys):
    status, out, _ = call(filled, capsys, filled / "images/cats/001.png", "--json", "--top", "2")
    found = json.loads(out)
    assert (status, found["stored"]) == (0, "has the bytes of cats/001.png")
    assert [one["path"] for one in found["similar"]] == ["cats/001.png", "dogs/copy.png"]


@pytest.mark.parametrize("image", ["cats/none.png", "dogs/broken.png"])
def test_what_is_neither_a_usable_image_nor_a_file_is_named(filled, capsys, image):
    status, _, error = call(filled, capsys, image)
    assert status == 2
    assert f"error: {image} is no usable image of version 1, and no file: No such file" in error


def test_a_new_picture_is_computed_in_a_child_whose_error_is_the_error_of_the_command(filled, capsys):
    new = toy.picture(filled / "new.png", seed=77)
    status, _, error = call(filled, capsys, new)
    assert status == 2
    assert "does not say which weights" in error
    assert "Traceback" not in error
