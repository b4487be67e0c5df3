"""A training that is stopped and resumed takes the same steps as one that was not stopped.

Most tests stop a training in this process after some step, where a kill would leave the same files. Others kill a real
child.
"""

import csv
import dataclasses
import os
import random
import shutil
import threading
import time
from pathlib import Path

import pytest

from storage.heads.checkpoints import CHECKPOINT, read_checkpoint, write_checkpoint
from storage.heads.pins import pin_version, pinned_version
from storage.maintenance.compact import compact
from storage.manifest.space import spaces
from storage.manifest.versions import version_numbers
from tests import toy
from tests.workers.jobs.trainer import Trainer
from workers.errors import WorkerDied
from workers.jobs.records import HeadJob, HeadResult
from workers.runners.inline import InlineRunner
from workers.runners.local import LocalRunner

# Keras 3.15 warns on NumPy 2 whenever it saves (keras/src/backend/tensorflow/core.py, convert_to_numpy).
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

KILLS = int(os.environ.get("KILLS", "5"))
# Three batches per epoch, of which the last is smaller. A checkpoint follows each of them.
OPTIONS = {"epochs": 2, "batch_size": 20, "shuffle_memory_mb": 1}
STEPS = 6
# 15 batches per epoch, so that there is time to kill a child during the training.
LONGER = {"epochs": 4, "batch_size": 4}


class Stopped(Exception):
    """Raised to stop a training after a step."""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, workers: InlineRunner) -> Trainer:
    folder = tmp_path_factory.mktemp("resumed")
    images = toy.pictures(folder / "images", per_class=40)
    _, version = toy.run(images, folder / "store", validation_fraction=0.3, chunk_size=16)
    made = Trainer(images, folder / "store", version, workers)
    job = dataclasses.replace(job_of(made), checkpoint_seconds=3600.0)
    checkpoint = made.store.head(job.name) / CHECKPOINT
    made.result = made.train(job, lambda record: made.heard.append({"has_checkpoint": checkpoint.exists()}))
    assert len(steps_of(made, job)) == 1 + STEPS
    return made


@pytest.fixture(scope="module")
def stopped(first: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A copy of the images and the version, with a training that stopped after five steps."""
    made = without_heads(first, tmp_path_factory.mktemp("stopped"))
    stop_after(made, job_of(made), 5)
    return made


@pytest.fixture(scope="module")
def longer(first: Trainer) -> Trainer:
    """The same store, in which a longer training has finished too."""
    return dataclasses.replace(first, result=first.train(job_of(first, **LONGER)))


@pytest.fixture
def trainer(first: Trainer, tmp_path: Path) -> Trainer:
    """A copy of the images and the version, without a head."""
    return without_heads(first, tmp_path)


@pytest.fixture
def interrupted(stopped: Trainer, tmp_path: Path) -> Trainer:
    """A copy of `stopped`, which a test may change."""
    shutil.copytree(stopped.images, tmp_path / "images")
    shutil.copytree(stopped.root, tmp_path / "store")
    return dataclasses.replace(stopped, images=tmp_path / "images", root=tmp_path / "store", heard=[])


def without_heads(trainer: Trainer, folder: Path) -> Trainer:
    shutil.copytree(trainer.images, folder / "images")
    shutil.copytree(trainer.root, folder / "store", ignore=shutil.ignore_patterns("heads"))
    return dataclasses.replace(trainer, images=folder / "images", root=folder / "store", heard=[])


def job_of(trainer: Trainer, **options) -> HeadJob:
    return dataclasses.replace(trainer.job(**OPTIONS | options), checkpoint_seconds=0.0)


def steps_of(trainer: Trainer, job: HeadJob) -> list[list[str]]:
    with open(trainer.store.head(job.name) / "logs" / "steps.csv", newline="") as file:
        return list(csv.reader(file))


def stop_after(trainer: Trainer, job: HeadJob, steps: int) -> None:
    """Train `steps` steps and keep the last checkpoint."""
    left = steps

    def write(*given) -> None:
        nonlocal left
        write_checkpoint(*given)
        left -= 1
        if left == 0:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workers.jobs.train.write_checkpoint", write)
        with pytest.raises(Stopped):
            trainer.train(job, trainer.heard.append)
    assert pinned_version(trainer.store, job.name) == 1


def kill_after(trainer: Trainer, child: LocalRunner, job: HeadJob, steps: int) -> None:
    """Train in a child, and kill it when `steps` steps are in the log."""
    log = trainer.store.head(job.name) / "logs" / "steps.csv"

    def killing(process) -> None:
        while not (log.exists() and log.read_bytes().count(b"\n") > steps):
            time.sleep(0.002)
        process.kill()

    with child.lease() as worker:
        process = worker._process = worker._running()
        killer = threading.Thread(target=killing, args=(process,))
        killer.start()
        with pytest.raises(WorkerDied):
            worker.call("head", job.record(), trainer.heard.append)
        killer.join()
    assert pinned_version(trainer.store, job.name) == 1


def new_images(trainer: Trainer, seed: int = 77) -> None:
    toy.picture(trainer.images / "cats" / f"new {seed}.png", seed)
    toy.run(trainer.images, trainer.root, validation_fraction=0.3)


def assert_the_same(trainer: Trainer, first: Trainer, job: HeadJob, result: HeadResult) -> None:
    """Check that a resumed training has every step and figure of the first, and that no file of the stop is left."""
    assert steps_of(trainer, job) == steps_of(first, job)
    assert list(result.history) == list(first.result.history)
    assert (result.val_loss, result.val_accuracy) == (first.result.val_loss, first.result.val_accuracy)
    left = {path.name for path in trainer.store.head(job.name).iterdir()}
    assert not left & {CHECKPOINT, "pin.json", "writing.keras"}


def test_a_training_that_is_stopped_after_every_step_takes_the_same_steps_as_one_that_was_not(first, trainer):
    """Each time the number of threads changes; sometimes new images are committed meanwhile."""
    job = job_of(trainer)
    for steps in range(STEPS):
        trainer.heard.clear()
        stop_after(trainer, job, 1)
        assert (trainer.heard[:1] == [resumed_after(steps)]) == (steps > 0)
        assert steps_of(trainer, job) == steps_of(first, job)[: 2 + steps]
        if steps % 3 == 1:
            new_images(trainer, seed=7_000 + steps)
        job = dataclasses.replace(job, read_threads=1 + steps % 6)
    trainer.heard.clear()
    result = trainer.train(job, trainer.heard.append)
    assert trainer.heard[0] == resumed_after(STEPS)
    assert_the_same(trainer, first, job, result)


def resumed_after(steps: int) -> dict:
    epoch, step = divmod(steps, STEPS // 2)
    return {"resumed": True, "epoch": 1 + epoch, "after_steps": step}


@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, KILLS))])
def test_a_killed_training_takes_the_same_steps_as_one_that_was_not(longer, trainer, child, number):
    """The child is killed once or twice. The number of threads changes, and new images may be committed meanwhile."""
    draw = random.Random(1 + number)
    job = job_of(trainer, **LONGER)
    total = len(steps_of(longer, job)) - 1
    at = sorted(draw.sample(range(1, total - 2), draw.choice([1, 1, 2])))
    for steps in at:
        kill_after(trainer, child, job, steps)
        if draw.random() < 0.5:
            new_images(trainer)
        job = dataclasses.replace(job, read_threads=draw.randint(1, 6))
    trainer.heard.clear()
    result = trainer.train(job, trainer.heard.append)
    resumed = trainer.heard[0]
    assert resumed["resumed"]
    assert (resumed["epoch"] - 1) * (total // 4) + resumed["after_steps"] >= at[-1] - 1, "a checkpoint was left behind"
    assert_the_same(trainer, longer, job, result)


def test_a_run_on_a_later_version_of_the_same_data_goes_on_with_the_rows_it_began_on(first, interrupted):
    """Compaction moves the rows, so the same seed would give another order."""
    job = job_of(interrupted)
    (space,) = spaces(interrupted.root)
    assert compact(space, interrupted.version) is not None
    assert version_numbers(space) == [1, 2]
    interrupted.train(dataclasses.replace(job, version=2), interrupted.heard.append)
    assert interrupted.heard[0] == resumed_after(5)
    assert steps_of(interrupted, job) == steps_of(first, job)


@pytest.mark.parametrize("damage", ["cut", "of a version that is gone", "of another training"])
def test_a_checkpoint_that_cannot_be_used_costs_only_the_time(first, interrupted, damage):
    job = job_of(interrupted)
    path = interrupted.store.head(job.name) / CHECKPOINT
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "of another training":
        job = job_of(interrupted, kind="linear")
        interrupted.store.head(job.name).mkdir(parents=True)
        shutil.copy(path, interrupted.store.head(job.name) / CHECKPOINT)
    else:
        new_images(interrupted)
        interrupted.store.version(1).rename(interrupted.root / "elsewhere")
        job = dataclasses.replace(job, version=2)
        assert read_checkpoint(interrupted.store, job.name)[1]["version"] == 1
        pin_version(interrupted.store, job.name, 1)
    result = interrupted.train(job)
    assert result.is_new
    if damage == "cut":
        assert steps_of(interrupted, job) == steps_of(first, job)
    elif damage == "of another training":
        assert len(steps_of(interrupted, job)) == 1 + STEPS


def test_no_checkpoint_is_written_before_its_time(first):
    assert first.heard
    assert not any(record["has_checkpoint"] for record in first.heard)
