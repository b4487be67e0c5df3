"""Heads that pool the maps, trained in epochs or by a solver, as jobs on a store."""

import dataclasses
import json

import numpy as np
import pytest

from flows.console.messages import trained
from storage.heads.current import current_head
from storage.heads.registry import remove_head
from storage.reading import open_split
from storage.reading.samples import pin_views
from vision.prediction.dense_head import DenseHead
from vision.prediction.head import load_predicting_head
from workers.jobs.head_identity import find_head

# Keras 3.15 warns on NumPy 2 whenever it saves (keras/src/backend/tensorflow/core.py, convert_to_numpy).
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def record_of(trainer, job) -> dict:
    return json.loads((trainer.store.head(job.name) / "head.json").read_text())


def test_a_logistic_head_is_fitted_kept_and_compared(trainer):
    job, heard = trainer.job(kind="logistic"), []
    result = trainer.train(job, heard.append)
    assert (result.is_new, result.epochs, list(result.history), result.diverged) == (True, None, [], None)
    assert trainer.result.name in result.promotion, "it was not compared with the current head"
    assert (current_head(trainer.store) == job.name) == result.is_promoted
    assert {"epoch", "epochs", "step", "steps"} == set().union(
        *map(set, heard or [{"epoch", "epochs", "step", "steps"}])
    )
    record = record_of(trainer, job)
    assert (record["metrics"]["epochs"], record["history"], record["epoch_seconds"]) == (None, [], [])
    assert record["head"] == {
        "classes": ["cats", "dogs"],
        "kind": "logistic",
        "class_weight": "none",
        "standardize": True,
    }
    assert record["regularization"]["images"] == record["samples"]["train"]
    assert record["regularization"]["l2"] in [each["l2"] for each in record["regularization"]["tried"]]
    assert "scikit-learn" in record["environment"]
    found = find_head(trainer.store, job.name)
    assert (found.val_accuracy, found.val_loss, found.epochs) == (result.val_accuracy, result.val_loss, None)
    assert not trainer.train(job).is_new


def test_samples_that_are_too_many_for_the_solver_are_counted(trainer, monkeypatch):
    job = trainer.job(kind="logistic", l2=0.5)
    monkeypatch.setattr("workers.jobs.training_data.most_samples", lambda spec, shape: 12)
    result = trainer.train(job)
    record = record_of(trainer, job)
    assert record["regularization"]["images"] == 12
    assert result.left_out == find_head(trainer.store, job.name).left_out == record["samples"]["train"] - 12
    assert f"fitted without {result.left_out} training samples" in trained(job, result)


def test_the_figures_are_those_of_the_saved_head(trainer):
    job = trainer.job(kind="logistic")
    result = trainer.train(job)
    head = load_predicting_head(trainer.store.head(job.name) / "head.keras")
    assert isinstance(head, DenseHead)
    rows = open_split(trainer.root, "validation", seed=None)
    pairs = [(head.probabilities(features), labels) for _, features, labels in rows.numbered()]
    right = sum((scores.argmax(axis=1) == labels).sum() for scores, labels in pairs)
    losses = np.concatenate([-np.log(scores[np.arange(len(labels)), labels]) for scores, labels in pairs])
    assert result.val_accuracy == right / len(losses)
    assert result.val_loss == pytest.approx(losses.mean(), rel=1e-5)


def test_what_concerns_epochs_does_not_change_the_name_of_a_logistic_head(trainer):
    plain = trainer.job(kind="logistic").name
    same = {
        "epochs": 7,
        "batch_size": 4,
        "learning_rate": 1.0,
        "optimizer": "sgd",
        "patience": 1,
        "sampling": "bootstrap",
    }
    assert {trainer.job(kind="logistic", **{name: value}).name for name, value in same.items()} == {plain}
    other = {"standardize": False, "class_weight": "balanced", "head_pooling": "max", "l2": 0.1}
    names = {trainer.job(kind="logistic", **{name: value}).name for name, value in other.items()}
    assert len(names | {plain}) == 1 + len(other)
    assert trainer.job(l2=0.1, head_pooling="max").name == trainer.job().name, "the tutorial's head has another name"


def test_the_report_of_a_logistic_head_shows_the_strengths_instead_of_epochs(trainer):
    job = trainer.job(kind="logistic")
    trainer.train(job)
    page = (trainer.store.head(job.name) / "report.html").read_text()
    assert "Strengths of the regularisation" in page
    assert page.count("(kept)") == 1
    assert "Best epoch" not in page
    assert "Learning curves" not in page


def test_a_pooled_head_is_trained_in_epochs_on_the_stored_maps(trainer):
    job = trainer.job(kind="pooled")
    result = trainer.train(job)
    assert (result.is_new, result.epochs, len(result.history)) == (True, 2, 2)
    assert isinstance(load_predicting_head(trainer.store.head(job.name) / "head.keras"), DenseHead)
    assert trainer.job(kind="pooled", head_pooling="avg").name != job.name


def test_a_pooled_head_resumes_to_the_bit(trainer):
    """The same steps as a training that nothing interrupted."""
    job = trainer.job(kind="pooled", epochs=3)
    whole = trainer.train(job)
    steps = (trainer.store.head(job.name) / "logs" / "steps.csv").read_text()
    remove_head(trainer.store, job.name)

    def stop(record: dict) -> None:
        if "loss" in record and record["epoch"] == 2:
            raise RuntimeError("stopped")

    often = dataclasses.replace(job, checkpoint_seconds=0.0)
    with pytest.raises(Exception, match="stopped"):
        trainer.train(often, stop)
    again = trainer.train(often)
    assert (trainer.store.head(job.name) / "logs" / "steps.csv").read_text() == steps
    assert (again.val_loss, again.history) == (whole.val_loss, whole.history)


def test_a_solver_takes_whole_images_that_stay_when_images_are_added(trainer):
    views = pin_views(trainer.store, trainer.version, "train", ("cats", "dogs"), trainer.root, "", 1)
    table, images = views.flat(5)
    assert len(table) == len(images) == 5
    assert set(images) <= set(views.images)
    larger = views.flat(7)[1]
    assert set(images) < set(larger)
    assert len(views.flat(10**6)[0]) == len(views)
