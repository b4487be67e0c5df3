"""What somebody asked for at a path appears whole or not at all, and replaces only what it may."""

import errno
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.backend.output import REPLACED, check_output, replacing
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


def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(OSError, match="No space left on device") as found, replacing(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "Error writing bytes to file")
    assert found.value.filename == str(tmp_path / "out")


@contextmanager
def process(work):
    """Fork a process that does some work. Yields when the work says so, and kills the process afterwards."""
    heard, said = os.pipe()
    if not (pid := os.fork()):
        try:
            work(lambda: (os.write(said, b"!"), signal.pause()))
        finally:
            os._exit(1)
    os.read(heard, 1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(heard)
        os.close(said)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("moment", ["while it writes", "after it moved the earlier output"])
@pytest.mark.parametrize("folder", [False, True])
def test_the_next_output_removes_what_a_killed_process_left_but_nothing_of_a_living_one(folder, moment, tmp_path):
    path, other = tmp_path / "out", tmp_path / "out.2"
    write(path, folder, "old")

    def work(wait) -> None:
        with replacing(path) as aside:
            write(aside, folder, "half")
            if moment != "while it writes":
                os.rename(path, aside.parent / REPLACED)
            wait()

    with process(work):
        with replacing(other) as aside:
            write(aside, folder, "other")
        with replacing(path) as aside:
            write(aside, folder, "of another process")
        assert len(list(tmp_path.glob(".*"))) == 1
        shutil.rmtree(path) if folder else path.unlink()
        assert not path.exists()
    with pytest.raises(InputError), replacing(path):
        raise InputError("nothing")
    assert (path.exists() and read(path, folder) == "old") == (moment != "while it writes")
    assert sorted(os.listdir(tmp_path)) == ["out"] * path.exists() + ["out.2"]


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
