"""What a training writes, when it is repeated, and which head becomes the current one."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from storage.heads.current import current_head
from storage.heads.registry import is_unranked
from tasks.caching import is_true
from tests import toy
from tests.workers.jobs.trainer import NOTHING
from workers.jobs.head_identity import find_head
from workers.jobs.records import HeadResult

# Keras 3.15 warns on NumPy 2 whenever it saves (keras/src/backend/tensorflow/core.py, convert_to_numpy).
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


# Training


def test_a_head_is_trained_kept_and_promoted(first):
    result, name = first.result, first.job().name
    assert (result.name, result.is_new, result.is_promoted, result.epochs) == (name, True, True, 2)
    assert 0 <= result.val_accuracy <= 1
    assert result.val_loss == pytest.approx(min(logs["val_loss"] for logs in result.history), rel=1e-5)
    ends = [record for record in first.heard if "loss" in record]
    assert [(record["epoch"], record["epochs"]) for record in ends] == [(1, 2), (2, 2)]
    assert current_head(first.store) == name
    assert sorted(path.name for path in first.store.head(name).iterdir()) == [
        "head.json",
        "head.keras",
        "logs",
        "report.html",
        "samples-train.npy",
        "samples-validation.npy",
    ]


def test_head_json_says_what_the_head_was_made_of(first):
    job = first.job()
    record = json.loads((first.store.head(job.name) / "head.json").read_text())
    assert record["fingerprint"] == job.space.fingerprint
    assert record["features"] == job.space.spec.record() | {"shape": [1, 1, 512]}
    assert (record["version"], record["data_digest"]) == (1, first.version.data_digest)
    assert (record["classes"], record["seed"]) == (["cats", "dogs"], 0)
    counts = {split: sum(by_class.values()) for split, by_class in first.version.classes.items()}
    assert record["samples"] == counts
    assert set(record["environment"]) == {"python", "tensorflow", "keras", "numpy"}


def test_head_json_says_how_each_class_does(first):
    record = json.loads((first.store.head(first.job().name) / "head.json").read_text())
    confusion = np.array(record["confusion"])
    assert confusion.sum(axis=1).tolist() == [first.version.classes["validation"][name] for name in ("cats", "dogs")]
    assert np.trace(confusion) / confusion.sum() == pytest.approx(record["metrics"]["val_accuracy"])
    assert list(record["per_class"]) == ["cats", "dogs"]
    for index, name in enumerate(record["per_class"]):
        scores, taken = record["per_class"][name], confusion[:, index].sum()
        assert scores["images"] == confusion[index].sum()
        assert scores["recall"] == pytest.approx(confusion[index, index] / confusion[index].sum())
        assert scores["precision"] == (pytest.approx(confusion[index, index] / taken) if taken else None)


# Repeated trainings, and heads that are found


def test_a_forced_training_is_done_again_and_comes_to_the_same_head(trainer):
    before = (trainer.store.head(trainer.job().name) / "head.json").stat().st_mtime_ns
    again = trainer.train(dataclasses.replace(trainer.job(), is_forced=True))
    assert again.is_new
    assert list(again.history) == list(trainer.result.history)
    assert (trainer.store.head(trainer.job().name) / "head.json").stat().st_mtime_ns > before
    logs = trainer.store.head(trainer.job().name) / "logs"
    assert len(list(logs.glob("train/events*"))) == 1


@pytest.mark.slow
def test_a_worse_head_is_promoted_where_the_job_says_so(trainer):
    jobs = (trainer.job(epochs=1, seed=seed, learning_rate=NOTHING) for seed in range(9))
    worse = next(job for job in jobs if not trainer.train(job).is_promoted)
    assert current_head(trainer.store) != worse.name
    assert trainer.train(dataclasses.replace(worse, promote="always")).is_promoted
    assert current_head(trainer.store) == worse.name


def test_a_head_that_is_never_promoted_is_unranked_until_it_is_compared(trainer):
    current = current_head(trainer.store)
    job = dataclasses.replace(trainer.job(seed=1, epochs=1), promote="never")
    aside = trainer.train(job)
    assert (aside.is_new, aside.is_promoted, current_head(trainer.store)) == (True, False, current)
    assert is_unranked(trainer.store, job.name)
    assert not is_true(trainer.store, aside)  # a cached record must not prevent the comparison
    compared = trainer.train(dataclasses.replace(job, promote="if_better"))
    assert not compared.is_new
    assert compared.is_promoted == (rank(compared) >= rank(trainer.result))
    assert not is_unranked(trainer.store, job.name)


def test_the_current_head_stays_what_it_is_where_it_is_asked_for_again_and_never_promoted(trainer):
    again = trainer.train(dataclasses.replace(trainer.job(), promote="never"))
    assert (again.is_new, again.is_promoted, is_unranked(trainer.store, again.name)) == (False, True, False)


def first_loss(result: HeadResult) -> float:
    return result.history[0]["loss"]


def test_seed_steps_an_epoch_and_sampling_change_what_is_trained_on(rival):
    other = rival.train(rival.job(seed=1, epochs=1))
    few = rival.train(rival.job(steps_per_epoch=1))
    drawn = rival.train(rival.job(sampling="bootstrap", epochs=1))
    assert len({first_loss(result) for result in (rival.result, other, few, drawn)}) == 4
    assert len(few.history) == 2


def test_the_memory_for_the_shuffle_changes_the_order_where_the_rows_need_more(first, store):
    """One megabyte holds four row groups, because half of it is for reading ahead. The training rows fill more."""
    _, version = toy.run(first.images, store, validation_fraction=0.4, chunk_size=2)
    cut = dataclasses.replace(first, root=store, version=version)
    enough, little = (cut.train(cut.job(epochs=1, shuffle_memory_mb=memory)) for memory in (256, 1))
    assert first_loss(enough) != first_loss(little)


def test_patience_ends_a_training_after_as_many_epochs_on_a_plateau(trainer):
    flat = trainer.train(trainer.job(epochs=9, patience=2, learning_rate=NOTHING))
    assert len({logs["val_loss"] for logs in flat.history}) == 1
    assert len(flat.history) == 3


def test_a_head_that_is_there_is_found_and_not_trained_again(trainer):
    heard = []
    again = trainer.train(trainer.job(), heard.append)
    assert (again.is_new, again.is_promoted, heard) == (False, True, [])
    assert (again.val_accuracy, again.val_loss) == (trainer.result.val_accuracy, trainer.result.val_loss)


def test_a_training_that_died_before_its_end_is_done_again_to_the_same_end(trainer):
    """Also if its report cannot be written."""
    folder = trainer.store.head(trainer.job().name)
    (folder / "head.json").unlink()
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    again = trainer.train(trainer.job())
    assert (again.is_new, again.report) == (True, None)
    assert find_head(trainer.store, again.name) is not None
    assert list(again.history) == list(trainer.result.history)
    assert (again.val_loss, again.val_accuracy) == (trainer.result.val_loss, trainer.result.val_accuracy)


def rank(result: HeadResult) -> tuple[float, float]:
    return result.val_accuracy, -result.val_loss


def test_a_head_is_promoted_exactly_if_it_is_not_worse_on_the_same_validation_rows(rival):
    best = rival.result
    for seed in range(1, 4):
        result = rival.train(rival.job(seed=seed, epochs=1))
        assert result.is_promoted == (rank(result) >= rank(best))
        assert result.promotion.startswith("the head takes" if result.is_promoted else f"head {best.name} stays")
        best = result if result.is_promoted else best
        assert current_head(rival.store) == best.name


def test_a_head_of_classes_in_another_order_takes_its_labels_in_that_order(trainer):
    other = trainer.train(trainer.job(classes=("dogs", "cats")))
    assert other.is_promoted == (rank(other) >= rank(trainer.result))
    table = np.load(trainer.store.head(other.name) / "samples-train.npy")
    assert np.bincount(table["class"]).tolist() == [trainer.version.classes["train"][name] for name in ("dogs", "cats")]


@pytest.mark.parametrize(
    "damage", ["gone", "head.json gone", "head.keras gone", "head.keras cut", "head.json says little"]
)
def test_a_current_head_that_is_damaged_gives_way(damage, rival):
    damaged = rival.store.head(rival.job().name)
    if damage == "gone":
        shutil.rmtree(damaged)
    elif damage.endswith("gone"):
        (damaged / damage.split()[0]).unlink()
    elif damage.endswith("cut"):
        (damaged / "head.keras").write_bytes((damaged / "head.keras").read_bytes()[:1000])
    else:
        (damaged / "head.json").write_text("{}")
    other = rival.train(rival.job(seed=1, epochs=1))
    assert other.is_promoted
    assert current_head(rival.store) == other.name
