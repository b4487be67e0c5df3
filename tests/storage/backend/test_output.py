"""What somebody asked for at a path appears whole or not at all, and replaces only what it may."""

import os
from pathlib import Path

import pytest

from storage.backend.output import check_output, replacing
from storage.errors import InputError


def write(path: Path, folder: bool, text: str) -> None:
    if folder:
        (path / "inner").mkdir(parents=True)
        (path / "inner" / "file").write_text(text)
        (path / "mark").write_text("")
    else:
        path.write_text(text)


def read(path: Path, folder: bool) -> str:
    return (path / "inner" / "file" if folder else path).read_text()


@pytest.mark.parametrize("folder", [False, True])
def test_the_output_replaces_the_one_before_when_it_is_complete(folder, tmp_path):
    path = tmp_path / "new" / "out.x"
    for text in ("one", "two"):
        with replacing(path) as aside:
            assert aside.name == path.name
            write(aside, folder, text)
            assert text == "one" or read(path, folder) == "one"
        assert read(path, folder) == text
        assert os.listdir(path.parent) == ["out.x"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("folder", [False, True])
def test_an_output_that_is_interrupted_leaves_what_was_there(folder, error, tmp_path):
    path = tmp_path / "out"
    write(path, folder, "old")

    def fail() -> None:
        with replacing(path) as aside:
            write(aside, folder, "half")
            raise error

    with pytest.raises(error):
        fail()
    assert read(path, folder) == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_what_is_there_stays_unless_it_is_an_earlier_output_and_may_be_replaced(tmp_path):
    file, foreign, earlier = tmp_path / "file", tmp_path / "foreign", tmp_path / "earlier"
    file.write_text("")
    write(foreign, True, "")
    (foreign / "mark").unlink()
    write(earlier, True, "")
    check_output(tmp_path / "none" / "deep", "mark", False)
    check_output(file, "", True)
    check_output(earlier, "mark", True)
    for path, mark, overwrite, said in (
        (file, "", False, "exists"),
        (earlier, "mark", False, "exists"),
        (foreign, "mark", True, "not replaced"),
        (foreign, "", True, "is a folder"),
        (file, "mark", True, "is a file"),
        (file / "below", "", False, "nothing can be written"),
    ):
        with pytest.raises(InputError, match=f"`out`.*{said}"):
            check_output(path, mark, overwrite)
