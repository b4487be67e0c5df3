"""A child uses the threads of its slot in every library that it loads."""

import dataclasses
from pathlib import Path

import pytest

from storage.manifest.space import create_space
from storage.manifest.versions import latest_version
from storage.planning.chunks import pack
from tests import pools, toy
from tests.workers.jobs.test_training_data import extracted
from vision.training.head import HeadSpec
from workers.devices import THREAD_POOLS, Slot, available_cores
from workers.jobs.records import ChunksJob, Space
from workers.jobs.spaces import head_job, version_record
from workers.runners import local as worker_pool
from workers.runners.local import LocalRunner


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    """A store with one version of twelve images."""
    folder = tmp_path_factory.mktemp("pools")
    return extracted(toy.pictures(folder / "images", per_class=6), folder / "store", "mnn")


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


@pytest.mark.parametrize("engine", ["mnn", pytest.param("tensorflow", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("made", "threads"), [(extraction, 1), (training, available_cores())])
def test_every_pool_of_a_child_has_the_threads_of_its_slot(space, made, threads, engine, tmp_path, monkeypatch):
    """The slot overrides what the user has set for the whole machine."""
    for name in THREAD_POOLS:
        monkeypatch.setenv(name, "7")
    monkeypatch.setattr(worker_pool, "CHILD", pools.CHILD)
    slot = Slot(None, threads)
    workers = LocalRunner((slot,), tmp_path / "logs")
    try:
        with workers.lease() as worker:
            found = worker.call(*made(space, slot, engine), lambda record: None)
    finally:
        workers.close()
    libraries = {Path(path).name.partition("-")[0]: count for path, count in found["blas"].items()}
    assert "libscipy_openblas64_" in libraries
    assert set(libraries.values()) == {threads}
    assert found["arrow"] == [threads, threads]
    assert found["tensorflow"] in (None, [threads, 1], [threads, threads])
    assert (found["tensorflow"] is None) == (made is extraction and engine == "mnn")


def test_a_slot_names_its_threads_and_its_gpu():
    assert Slot("3", 2).environment == {"CUDA_VISIBLE_DEVICES": "3"} | dict.fromkeys(THREAD_POOLS, "2")
    assert "CUDA_VISIBLE_DEVICES" not in Slot(None, 1).environment
