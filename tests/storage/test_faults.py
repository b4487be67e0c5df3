"""Whatever call of a run fails, or is the last, or the last before the power goes: the store is whole, nothing is lost.

FAULTS=all tries every call; a number tries so many of each kind, spread over the run.
"""

import os
import random
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from storage.backend.lock import hold
from storage.errors import StorageError
from storage.layout import Store
from storage.maintenance.collect import collect
from storage.maintenance.compact import CompactOptions, compact
from storage.maintenance.verify import verify_space
from storage.manifest.file_table import CONTENT_COLUMNS
from storage.manifest.versions import Version, latest_version
from tests import toy
from tests.storage.faults import Way, faults

WAYS: tuple[Way, ...] = ("fails", "dies", "loses power")
SAMPLE = os.environ.get("FAULTS", "12")


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and a store of two versions with small and half-dead shards, and changes that no version knows yet."""
    root = tmp_path_factory.mktemp("faults")
    images, store = toy.pictures(root / "images", per_class=5), root / "store"
    toy.run(images, store, chunk_size=4)
    for number in range(3):
        (images / f"cats/00{number}.png").unlink()
    toy.run(images, store, chunk_size=4, max_removed_fraction=1.0)
    for number in range(3):
        toy.picture(images / f"cats/new {number}.png", 7000 + number)
    (images / "dogs/000.png").rename(images / "cats/was a dog.png")
    (images / "dogs/001.png").unlink()
    toy.picture(images / "dogs/002.png", 8000)
    return root


def run(root: Path) -> Version:
    with hold(root / "store"):
        _, version = toy.run(root / "images", root / "store", chunk_size=2, max_removed_fraction=1.0)
    return version


def upkeep(root: Path) -> Version:
    store = toy.space(root / "images", root / "store").store
    with hold(root / "store"):
        compact(store, newest(store), CompactOptions(8))
        collect(root / "store", keep=1, grace_seconds=-3600)
    return newest(store)


def newest(store: Store) -> Version:
    version = latest_version(store)
    assert version is not None
    return version


def meaning(root: Path, version: Version) -> tuple[list[dict], dict[bytes, np.ndarray]]:
    """What a version says of its images, and the features of each."""
    store = toy.space(root / "images", root / "store").store
    files = version.read_files(store)
    live = set(files["digest"].to_pylist())
    features = toy.features_of(root / "images", root / "store", version)
    return files.select(CONTENT_COLUMNS).to_pylist(), {
        digest: row for digest, row in features.items() if digest in live
    }


def calls_of(work, lived: Path, tmp_path: Path, monkeypatch) -> int:
    root = shutil.copytree(lived, tmp_path / "counted")
    with faults(monkeypatch, root, "counts") as disk:
        work(root)
    return disk.calls


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("work", [run, upkeep])
def test_whatever_call_goes_wrong_the_store_is_whole_and_the_next_run_ends_as_if_nothing_had_been(
    work, way, lived, tmp_path, monkeypatch, settled
):
    expected_files, expected = meaning(lived_copy := shutil.copytree(lived, tmp_path / "expected"), run(lived_copy))
    calls = calls_of(work, lived, tmp_path, monkeypatch)
    assert calls > 20
    wanted = range(calls) if SAMPLE == "all" else sorted(random.Random(way).sample(range(calls), int(SAMPLE)))
    for at in wanted:
        root = shutil.copytree(lived, tmp_path / f"{at}")
        foreseen = (OSError, StorageError) if way == "fails" else ()
        with faults(monkeypatch, root, way, at) as disk, suppress(*foreseen):
            work(root)
        assert disk.calls > at
        store = toy.space(root / "images", root / "store").store
        assert not list(verify_space(store, is_deep=True)), (at, way)
        files, found = meaning(root, run(root))
        assert files == expected_files, (at, way)
        assert found.keys() == expected.keys(), (at, way)
        assert all(np.array_equal(found[digest], expected[digest]) for digest in expected), (at, way)
        assert not list(verify_space(store, is_deep=True)), (at, way)
        shutil.rmtree(root)
