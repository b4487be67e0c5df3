import errno
import os
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from storage.backend.atomic import create, make_folder, put, replace, sweep
from storage.errors import StorageError
from storage.layout import Store
from storage.manifest.space import create_space


@contextmanager
def full_disk(size_bytes: int) -> Iterator[None]:
    """No file may grow beyond this size: the nearest real thing to a full disk that a test can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_created_file_holds_its_bytes_and_leaves_nothing_aside(tmp_path):
    assert create(tmp_path / "a" / "b" / "file", b"data", tmp_path / "aside")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"data"
    assert not list((tmp_path / "aside").iterdir())


def test_a_file_that_exists_is_never_overwritten(tmp_path):
    (tmp_path / "file").write_bytes(b"first")
    assert not create(tmp_path / "file", b"second", tmp_path / "aside")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert not list((tmp_path / "aside").iterdir())


def test_of_many_writers_exactly_one_creates(tmp_path):
    data = [bytes([number]) * 10_000 for number in range(16)]
    with ThreadPoolExecutor(16) as threads:
        won = list(threads.map(lambda d: create(tmp_path / "file", d, tmp_path / "aside"), data))
    assert won.count(True) == 1
    assert (tmp_path / "file").read_bytes() == data[won.index(True)]
    assert not list((tmp_path / "aside").iterdir())


@pytest.fixture
def no_links(monkeypatch):
    """As on FAT and on many network mounts; no such file system can be mounted by a test."""

    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def test_without_hard_links_a_store_is_refused_unless_it_was_declared_to_have_one_writer(no_links, tmp_path):
    store = Store(tmp_path / "store", "0" * 32)
    with pytest.raises(StorageError, match="`single_writer`"):
        create_space(store, {})
    assert not list(store.aside.iterdir())
    create_space(store, {}, is_single_writer=True)
    create_space(store, {})  # once declared, it holds
    path = store.space / "file"
    assert create(path, b"first", store.aside)
    assert not create(path, b"second", store.aside)
    assert path.read_bytes() == b"first"
    assert not list(store.aside.iterdir())


def test_a_replaced_file_holds_the_new_bytes(tmp_path):
    for data in (b"one", b"two", b""):
        replace(tmp_path / "new" / "file", data)
        assert (tmp_path / "new" / "file").read_bytes() == data
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_a_write_that_fails_halfway_leaves_no_file(tmp_path):
    (tmp_path / "aside").mkdir()
    with full_disk(1000), pytest.raises(OSError, match="too large"):
        create(tmp_path / "file", b"x" * 5000, tmp_path / "aside")
    assert not (tmp_path / "file").exists()
    assert not list((tmp_path / "aside").iterdir())


def test_a_replacement_that_fails_halfway_leaves_the_old_bytes(tmp_path):
    replace(tmp_path / "file", b"old")
    with full_disk(1000), pytest.raises(OSError, match="too large"):
        replace(tmp_path / "file", b"x" * 5000)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_folders_are_made_with_their_parents_and_may_be_there(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b" / "c")
        assert (tmp_path / "a" / "b" / "c").is_dir()


def test_what_stands_for_its_bytes_gets_them_whatever_lay_there(tmp_path):
    for before in (None, b"data", b"dat", b"other bytes"):
        if before is not None:
            (tmp_path / "file").write_bytes(before)
        put(tmp_path / "file", b"data", tmp_path / "aside")
        assert (tmp_path / "file").read_bytes() == b"data"
    assert not list((tmp_path / "aside").iterdir())


def test_only_old_leftovers_of_a_replace_are_swept_up(tmp_path):
    old, young, other = f".head.json.{'a' * 32}", f".head.json.{'b' * 32}", ".keep"
    for name in (old, young, other, "head.json"):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (1, 1))
    os.utime(tmp_path / young)
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {young, other, "head.json"}
    sweep(tmp_path / "none")
