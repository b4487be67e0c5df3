"""What a training learns, keeps, reports and logs, and how it ends when its batches fail."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests.vision.training.points import SHAPE, Points, rows_of, trained
from vision.batches import Held
from vision.training.evaluation import evaluate, precision_and_recall
from vision.training.head_model import load_head
from vision.training.loop import Trained

pytestmark = [
    # Keras 3.15 on NumPy 2, wherever it saves: keras/src/backend/tensorflow/core.py, convert_to_numpy.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]


@dataclass
class Usual:
    """A training of three epochs, with all that it reads, says and writes."""

    found: Trained
    heard: list[dict]
    logs: Path
    points: Points
    in_order: Points
    held_out: Points


@pytest.fixture(scope="module")
def whole_story(engine, tmp_path_factory) -> Usual:
    heard, logs = [], tmp_path_factory.mktemp("usual") / "logs"
    points, in_order, held_out = Points(200, seed=0), Points(200), Points(60, draw=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vision.training.course.REPORT_EVERY_SECONDS", 0.0)
        found = trained(
            training=points, in_order=in_order, validation=held_out, report=lambda r: heard.append(dict(r)), logs=logs
        )
    return Usual(found, heard, logs, points, in_order, held_out)


@pytest.fixture
def usual(whole_story) -> Trained:
    return whole_story.found


@pytest.mark.parametrize(("classes", "standardize", "dtype"), [(2, False, "float16"), (3, True, "float32")])
def test_the_head_learns_what_can_be_told_apart(engine, classes, standardize, dtype):
    """Without standardisation, the rows are not read for statistics."""
    in_order = Points(200, classes, dtype=dtype)
    found = trained(classes, epochs=5, standardize=standardize, dtype=dtype, in_order=in_order)
    assert in_order.asked == ([0] if standardize else [])
    assert found.diverged is None
    assert found.validation.accuracy > 0.9
    assert found.history[-1]["loss"] < found.history[0]["loss"]


def test_the_same_seed_gives_the_same_weights_and_history(usual):
    """Also where the validation batches are kept in memory."""
    again = trained(validation=Held(tuple(Points(60, 2, draw=1).numbered())))
    assert usual.history == again.history
    assert (usual.validation.loss, usual.validation.accuracy) == (again.validation.loss, again.validation.accuracy)
    for one, other in zip(usual.model.get_weights(), again.model.get_weights(), strict=True):
        assert np.array_equal(one, other)


def test_every_epoch_is_told_of_with_its_four_figures(whole_story):
    ends = [dict(record) for record in whole_story.heard if "loss" in record]
    assert [(record.pop("epoch"), record.pop("epochs")) for record in ends] == [(1, 3), (2, 3), (3, 3)]
    assert tuple(ends) == whole_story.found.history
    assert all({"loss", "accuracy", "val_loss", "val_accuracy"} <= set(logs) for logs in whole_story.found.history)


def test_steps_are_told_while_an_epoch_goes_on(whole_story):
    told = [record for record in whole_story.heard if "step" in record]
    assert [(record["epoch"], record["step"]) for record in told] == [
        (epoch, step) for epoch in range(4) for step in range(1, 14)
    ]
    assert {record["steps"] for record in told} == {13}


def test_each_epoch_is_trained_on_its_own_order_and_validation_on_one(whole_story):
    assert sorted(set(whole_story.points.asked)) == [0, 1, 2]
    assert whole_story.points.asked == sorted(whole_story.points.asked)
    assert set(whole_story.held_out.asked) == {0}
    assert whole_story.in_order.asked == [0]


def test_a_saved_head_is_loaded_in_safe_mode_and_predicts_the_same(usual, tmp_path):
    import keras

    usual.model.save(tmp_path / "head.keras")
    loaded = keras.saving.load_model(tmp_path / "head.keras", safe_mode=True)
    features = Points(30, draw=2).features
    assert np.array_equal(loaded.predict(features, verbose=0), usual.model.predict(features, verbose=0))


def test_a_saved_head_evaluates_as_it_did_when_it_was_trained(usual, tmp_path):
    usual.model.save(tmp_path / "head.keras")
    found = evaluate(load_head(str(tmp_path / "head.keras")), Points(60, draw=1), SHAPE, "float16", 2)
    assert (found.loss, found.accuracy) == pytest.approx((usual.validation.loss, usual.validation.accuracy))
    assert np.array_equal(found.confusion, usual.validation.confusion)


def test_data_smaller_than_a_batch_is_enough(engine):
    found = trained(training=Points(5, seed=0), in_order=Points(5), validation=Points(2, draw=1), epochs=2)
    assert len(found.history) == 2
    assert found.samples == 10


def test_training_ends_after_the_epochs_of_patience_and_gives_back_the_best(engine):
    """The classes overlap and the rate is high, so the head soon does worse on what it has not seen."""
    hard = Points(60, apart=0.3, draw=1)
    found = trained(epochs=30, patience=2, validation=hard, learning_rate=0.01)
    losses = [logs["val_loss"] for logs in found.history]
    best = losses.index(min(losses))
    assert len(losses) < 30
    assert best == len(losses) - 3
    assert found.validation.loss == pytest.approx(losses[best], rel=1e-6)
    assert found.validation.accuracy == pytest.approx(found.history[best]["val_accuracy"])


def test_balanced_classes_count_the_same_however_many_samples_they_have(engine):
    """The classes are hardly told apart, and nine of ten samples are of one: unweighted, the head names only that."""
    few = Points(300, seed=0, apart=0.4)
    few.labels = (np.arange(300) % 10 == 0).astype(np.uint16)
    few.features = (
        np.random.default_rng(0).normal(0, 1, (300, *SHAPE)) + 0.4 * few.labels[:, None, None, None]
    ).astype("float16")
    recalls = {}
    for class_weight in ("none", "balanced"):
        options = {"class_weight": class_weight, "kind": "linear", "learning_rate": 0.03, "epochs": 10}
        found = trained(training=few, in_order=few, validation=few, **options)
        recalls[class_weight] = precision_and_recall(found.validation.confusion)[1][1]
    assert recalls["none"] < 0.5 < recalls["balanced"]


def test_the_logs_tell_what_the_history_tells(whole_story):
    found, folder = whole_story.found, whole_story.logs
    with open(folder / "epochs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    for row, logs in zip(rows, found.history, strict=True):
        assert {name: float(row[name]) for name in logs} == pytest.approx(logs)
    for split, name in (("train", "loss"), ("validation", "val_loss")):
        told = {
            step: value
            for event in tensorboard_events(folder / split)
            for step, tag, value in event
            if tag == "epoch_loss"
        }
        assert told == pytest.approx({step: logs[name] for step, logs in enumerate(found.history)})


def tensorboard_events(folder: Path) -> Iterator[list[tuple[int, str, float]]]:
    """What TensorBoard will read: (step, tag, value) of each event."""
    import tensorflow as tf

    for path in folder.glob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            yield [
                (event.step, value.tag, float(tf.make_ndarray(value.tensor)))
                for value in event.summary.value
                if value.HasField("tensor") and value.tensor.dtype == tf.float32.as_datatype_enum
            ]


def test_the_confusion_counts_every_validation_sample_once_and_agrees_with_the_accuracy(usual):
    held_out = Points(61, draw=1, apart=1.0)
    found = evaluate(usual.model, held_out, SHAPE, "float16", 2)
    assert found.confusion.sum(axis=1).tolist() == np.bincount(held_out.labels).tolist()
    assert np.trace(found.confusion) / 61 == pytest.approx(found.accuracy)
    assert np.trace(found.confusion) < 61


def test_a_training_of_a_later_epoch_goes_on_from_the_head_it_is_given(usual, tmp_path):
    usual.model.save(tmp_path / "head.keras")
    points = Points(200, seed=0)
    found = trained(base=str(tmp_path / "head.keras"), initial_epoch=3, epochs=5, training=points, logs=tmp_path / "l")
    assert len(found.history) == 2
    assert found.history[0]["loss"] < usual.history[0]["loss"]
    assert sorted(set(points.asked)) == [3, 4]
    assert [row[0] for row in rows_of(tmp_path / "l" / "epochs.csv")[1:]] == ["3", "4"]
    assert int(found.model.optimizer.iterations.numpy()) == 5 * 13


def test_an_epoch_is_validated_on_as_many_batches_as_were_asked_for_and_the_head_on_all(engine):
    held_out = Points(60, draw=1, apart=0.5)
    some = Points(32, draw=1, apart=0.5)
    some.features, some.labels = held_out.features[:32], held_out.labels[:32]
    found = trained(validation=held_out, validation_steps=2, epochs=1)
    expected = evaluate(found.model, some, SHAPE, "float16", 2)
    assert found.history[0]["val_loss"] == pytest.approx(expected.loss, rel=1e-6)
    assert found.history[0]["val_accuracy"] == pytest.approx(expected.accuracy)
    assert found.validation.confusion.sum() == 60


# Batches that fail


class Unreadable(Exception):
    """An error of whoever gives the batches, which this room does not know."""


@dataclass
class Failing(Points):
    """Points of which the batches end with an error after so many, in all."""

    error: Exception = field(default_factory=Unreadable)
    good_batches: int = 0

    def batches(self, *place, **epochs) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in super().batches(*place, **epochs):
            if self.good_batches == 0:
                raise self.error
            self.good_batches -= 1
            yield batch


@pytest.mark.parametrize(
    ("role", "good_batches", "error"),
    [
        pytest.param("training", 0, Unreadable("shard 12 is damaged; run repair"), marks=pytest.mark.slow),
        ("training", 20, OSError(5, "Input/output error", "shard")),
        pytest.param("validation", 0, ValueError("a buffer is too small"), marks=pytest.mark.slow),
        ("validation", 6, MemoryError("no more")),
        ("validation", 9, NotImplementedError("never")),
        ("in_order", 3, Unreadable()),
    ],
    ids=repr,
)
def test_an_error_of_the_batches_ends_the_training_as_it_was_raised(engine, tmp_path, role, good_batches, error):
    """In the statistics, in an epoch, in the validation after one, and in the evaluation at the end."""
    count = 60 if role == "validation" else 200
    failing = Failing(count, seed=None if role != "training" else 0, error=error, good_batches=good_batches)
    with pytest.raises(type(error)) as caught:
        trained(epochs=2, **{role: failing}, logs=tmp_path / "logs")
    assert caught.value is error
    epochs = tmp_path / "logs" / "epochs.csv"
    done = len(rows_of(epochs)[1:]) if epochs.exists() else 0
    expected = {"training": good_batches // 13, "validation": min(good_batches // 4, 2), "in_order": 0}
    assert done == expected[role], "no epoch that was cut short is told of"


def test_an_error_of_the_batches_ends_an_evaluation_as_it_was_raised(usual):
    for good_batches in (0, 3, 5):  # of four that are asked for twice: for the figures, and for the confusion
        error = Unreadable()
        failing = Failing(60, error=error, good_batches=good_batches)
        with pytest.raises(Unreadable) as caught:
            evaluate(usual.model, failing, SHAPE, "float16", 2)
        assert caught.value is error


def test_an_error_of_something_else_is_told_before_that_of_batches_read_ahead(engine):
    def report(record: dict) -> None:
        if record["epoch"] and "val_loss" in record:
            raise OSError(28, "No space left on device")

    failing = Failing(200, seed=0, good_batches=13)
    with pytest.raises(OSError, match="No space"):
        trained(epochs=2, training=failing, report=report)
