"""Jobs run in this process, so that TensorFlow loads only once for all of them. Stores with heads are shared by the files."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import memo, toy
from tests.workers.jobs.trainer import Trainer
from workers.devices import Slot
from workers.runners.inline import InlineRunner
from workers.runners.local import LocalRunner


@pytest.fixture(scope="module", autouse=True)
def _shared_engines() -> Iterator[None]:
    with memo.shared_weights(), memo.shared_engines():
        yield


@pytest.fixture(scope="session")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InlineRunner]:
    """An inline runner. It passes jobs and results on as JSON, as a child would."""
    made = InlineRunner((Slot(None, 1),), tmp_path_factory.mktemp("logs"))
    yield made
    made.close()


@pytest.fixture
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRunner]:
    """A local runner, whose child a test can kill."""
    made = LocalRunner((Slot(None, 1),), tmp_path_factory.mktemp("logs"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory, workers: InlineRunner) -> Trainer:
    """A store with the head of the default job, and the progress records of its training."""
    folder = tmp_path_factory.mktemp("trained")
    _, version = toy.run(toy.pictures(folder / "images"), folder / "store", validation_fraction=0.4)
    made = Trainer(folder / "images", folder / "store", version, workers)
    made.result = made.train(made.job(), made.heard.append)
    return made


@pytest.fixture
def trainer(first: Trainer, store: Path) -> Trainer:
    """A copy of `first`, which a test may change."""
    shutil.copytree(first.root, store)
    return dataclasses.replace(first, root=store)


@pytest.fixture(scope="session")
def rivals(first: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A copy of `first` with the heads of three more seeds, which were never compared."""
    root = tmp_path_factory.mktemp("rivals") / "store"
    shutil.copytree(first.root, root)
    made = dataclasses.replace(first, root=root)
    for seed in (1, 2, 3):
        made.train(dataclasses.replace(made.job(seed=seed, epochs=1), promote="never"))
    return made


@pytest.fixture
def rival(rivals: Trainer, store: Path) -> Trainer:
    """A copy of `rivals`, which a test may change."""
    shutil.copytree(rivals.root, store)
    return dataclasses.replace(rivals, root=store)
