"""A child uses the threads of its slot in every library that it loads."""

import dataclasses
from pathlib import Path

import pytest

from storage.backend.paths import place
from storage.manifest.space import create_space
from storage.manifest.versions import latest_version
from storage.planning.chunks import pack
from tests import pools, toy
from vision.specs import FeatureSpec
from vision.training.head import HeadSpec
from workers.devices import THREAD_POOLS, Slot, available_cores
from workers.jobs.records import ChunksJob, Space
from workers.jobs.spaces import find_space, head_job, version_record
from workers.runners import local as worker_pool
from workers.runners.local import LocalRunner


@pytest.fixture
def space(tmp_path: Path) -> Space:
    """A store with one version of twelve images, in the feature space of the engines."""
    images, root = toy.pictures(tmp_path / "images", per_class=6), tmp_path / "store"
    toy.run(images, root)
    found = find_space(place(str(root)), place(str(images)), FeatureSpec("", image_size=32), "random")
    toy.adopt_space(images, root, found)
    return found


def extraction(space: Space, slot: Slot, engine: str) -> tuple[str, dict]:
    other = dataclasses.replace(space, root=f"{space.root}-again")
    create_space(other.store, space.spec.record())
    planned = toy.plan(Path(space.images), Path(other.root))
    rows = pack(planned.todo[: planned.chunk_size])
    return "chunks", ChunksJob(other, rows, 0, 1, planned.chunk_size, "parquet", slot.threads, engine).record()


def training(space: Space, slot: Slot, engine: str) -> tuple[str, dict]:
    """A training job on images, so that the child loads the engine too."""
    version = latest_version(space.store)
    assert version is not None
    spec = HeadSpec(("cats", "dogs"), epochs=1, batch_size=8, train_on="images")
    job = head_job(space, version_record(version), spec, seed=3)
    return "head", dataclasses.replace(job, engine=engine, threads=slot.threads, is_forced=True).record()


@pytest.mark.parametrize("threads", [1, pytest.param(available_cores(), marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "engine", ["mnn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("openvino", "tensorflow"))]
)
def test_every_pool_of_a_child_has_the_threads_of_its_slot(space, threads, engine, tmp_path, monkeypatch):
    """The child extracts, then trains. The slot overrides what the user has set for the whole machine."""
    for name in THREAD_POOLS:
        monkeypatch.setenv(name, "7")
    monkeypatch.setattr(worker_pool, "CHILD", pools.CHILD)
    slot = Slot(None, threads)
    workers = LocalRunner((slot,), tmp_path / "logs")
    try:
        for made in (extraction, training):
            with workers.lease() as worker:
                found = worker.call(*made(space, slot, engine), lambda record: None)
            assert_threads(found, threads, has_tensorflow=made is training or engine == "tensorflow")
    finally:
        workers.close()


def assert_threads(found: dict, threads: int, has_tensorflow: bool) -> None:
    libraries = {Path(path).name.partition("-")[0]: count for path, count in found["blas"].items()}
    assert "libscipy_openblas64_" in libraries
    assert set(libraries.values()) == {threads}
    assert found["arrow"] == [threads, threads]
    assert found["tensorflow"] in (None, [threads, 1], [threads, threads])
    assert (found["tensorflow"] is not None) == has_tensorflow


def test_a_slot_names_its_threads_and_its_gpu():
    assert Slot("3", 2).environment == {"CUDA_VISIBLE_DEVICES": "3"} | dict.fromkeys(THREAD_POOLS, "2")
    assert "CUDA_VISIBLE_DEVICES" not in Slot(None, 1).environment
