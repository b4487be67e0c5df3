import copy
import csv
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from vision.batches import Held
from vision.training.checkpoint import Checkpoint, CheckpointError
from vision.training.course import Divergence
from vision.training.evaluation import evaluate, precision_and_recall
from vision.training.feeds import TrainingData
from vision.training.head import HeadSpec
from vision.training.head_model import load_head
from vision.training.keeper import Keeping
from vision.training.loop import Trained, train

pytestmark = [
    # Keras 3.15 on NumPy 2, wherever it saves: keras/src/backend/tensorflow/core.py, convert_to_numpy.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

SHAPE = (1, 1, 8)


@dataclass
class Points:
    """Clouds of points, one a class, about 3 standard deviations apart; shuffled by epoch where a seed is given."""

    count: int
    classes: int = 2
    seed: int | None = None
    batch_size: int = 16
    dtype: str = "float16"
    apart: float = 3.0
    draw: int = 0
    asked: list[int] = field(default_factory=list)

    def __post_init__(self):
        random = np.random.default_rng(self.draw)
        self.labels = (np.arange(self.count) % self.classes).astype(np.uint16)
        values = random.normal(0, 1, (self.count, 8)) + self.apart * np.eye(8)[self.labels]
        self.features = values.reshape(-1, *SHAPE).astype(self.dtype)

    @property
    def steps(self) -> int:
        return -(-self.count // self.batch_size)

    def batches(
        self, epoch: int = 0, first_step: int = 0, *, epochs: int | None = 1
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number in count(epoch) if epochs is None else range(epoch, epoch + epochs):
            self.asked.append(number)
            order = np.arange(self.count)
            if self.seed is not None:
                order = np.random.default_rng((self.seed, number)).permutation(order)
            for start in range(first_step * self.batch_size, self.count, self.batch_size):
                pick = order[start : start + self.batch_size]
                yield self.features[pick], self.labels[pick]
            first_step = 0

    def numbered(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """In order, where there is no seed."""
        starts = range(0, self.count, self.batch_size)
        for start, batch in zip(starts, self.batches(), strict=True):
            yield np.arange(start, start + len(batch[1])), *batch


def trained(
    classes=2,
    seed=0,
    dtype="float16",
    training=None,
    validation=None,
    report=lambda record: None,
    logs=None,
    in_order=None,
    checkpoint=None,
    keeping=None,
    base=None,
    **options,
) -> Trained:
    spec = HeadSpec(("cat", "dog", "fox")[:classes], **{"epochs": 3} | options)
    points = training or Points(200, classes, seed, dtype=dtype)
    held_out = validation or Points(60, classes, draw=1, dtype=dtype)
    data = TrainingData(
        SHAPE,
        dtype,
        points,
        in_order or Points(200, classes, dtype=dtype),
        held_out,
        held_out,
        np.bincount(points.labels, minlength=classes),
    )
    with tempfile.TemporaryDirectory() as folder:
        return train(spec, data, seed, logs or Path(folder), report, checkpoint, keeping, base)


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
    found = trained(classes, epochs=5, standardize=standardize, dtype=dtype)
    assert found.validation.accuracy > 0.9
    assert found.history[-1]["loss"] < found.history[0]["loss"]


def test_the_same_seed_gives_the_same_weights_and_history(usual):
    again = trained()
    assert usual.history == again.history
    assert (usual.validation.loss, usual.validation.accuracy) == (again.validation.loss, again.validation.accuracy)
    for one, other in zip(usual.model.get_weights(), again.model.get_weights(), strict=True):
        assert np.array_equal(one, other)


def test_another_seed_gives_other_weights(usual):
    assert trained(seed=1).history != usual.history


def test_the_best_epoch_is_kept_and_its_figures_are_those_given(engine):
    # Hardly to be told apart, and learned too fast: soon the head does worse on what it has not seen.
    found = trained(epochs=6, validation=Points(60, apart=0.3, draw=1), learning_rate=0.01)
    best = min(found.history, key=lambda logs: logs["val_loss"])
    assert len(found.history) == 6
    assert best["val_loss"] < found.history[-1]["val_loss"]
    assert found.validation.loss == pytest.approx(best["val_loss"], rel=1e-6)
    assert found.validation.accuracy == pytest.approx(best["val_accuracy"])


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


def test_without_standardisation_the_rows_are_not_read_for_statistics(engine):
    in_order = Points(40)
    trained(in_order=in_order, epochs=1, standardize=False)
    assert in_order.asked == []


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
    hard = Points(60, apart=0.3, draw=1)
    found = trained(epochs=30, patience=2, validation=hard, learning_rate=0.01)
    losses = [logs["val_loss"] for logs in found.history]
    assert len(losses) < 30
    assert losses.index(min(losses)) == len(losses) - 3
    assert found.validation.loss == pytest.approx(min(losses), rel=1e-6)


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


def test_the_confusion_counts_every_validation_sample_once_and_agrees_with_the_accuracy(engine):
    held_out = Points(61, 3, draw=1, apart=1.0)
    found = trained(3, validation=held_out).validation
    assert found.confusion.sum(axis=1).tolist() == np.bincount(held_out.labels).tolist()
    assert np.trace(found.confusion) / 61 == pytest.approx(found.accuracy)
    assert np.trace(found.confusion) < 61


# Going on where a training was stopped


@dataclass
class Stopped:
    """A training whose every checkpoint was kept, as JSON and arrays would be read from a file."""

    found: Trained
    logs: Path
    checkpoints: list[Checkpoint]


# Four steps an epoch, of which the last is smaller; soon the head does worse on what it has not seen.
OPTIONS = {
    "epochs": 3,
    "class_weight": "balanced",
    "training": Points(56, seed=0),
    "in_order": Points(56),
    "validation": Points(60, apart=0.3, draw=1),
    "learning_rate": 0.02,
}
STEPS, EPOCHS = 4, 3


def stopped(logs: Path, **options) -> Stopped:
    kept = []

    def keep(epoch, step, arrays, record):
        copies = {name: np.array(array) for name, array in arrays}
        kept.append(Checkpoint(epoch, step, copies, json.loads(json.dumps(record))))

    return Stopped(trained(logs=logs, keeping=Keeping(keep, 0.0), **OPTIONS | options), logs, kept)


@pytest.fixture(scope="module")
def whole(engine, tmp_path_factory) -> Stopped:
    return stopped(tmp_path_factory.mktemp("whole") / "logs")


def rows_of(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_a_checkpoint_is_kept_between_any_two_steps_and_after_each_epoch(whole):
    losses = [logs["val_loss"] for logs in whole.found.history]
    assert losses.index(min(losses)) < EPOCHS - 1, "else nothing has to be remembered of the best epoch"
    assert [(c.epoch, c.step) for c in whole.checkpoints] == [
        place for epoch in range(EPOCHS) for place in [*((epoch, step) for step in range(1, STEPS)), (epoch + 1, 0)]
    ]


@pytest.mark.parametrize("number", range(STEPS * EPOCHS))
def test_a_training_goes_on_from_every_step_as_if_it_had_never_been_stopped(whole, number, tmp_path):
    """To the last bit: each later step, the history, the weights, and the logs, which the dead run had written on."""
    shutil.copytree(whole.logs, tmp_path / "logs")
    with open(tmp_path / "logs" / "steps.csv", "a") as file:
        file.write("3,1")  # cut off in the middle of a line
    again = trained(logs=tmp_path / "logs", checkpoint=whole.checkpoints[number], **OPTIONS)
    assert again.history == whole.found.history
    assert again.samples == whole.found.samples == 56 * EPOCHS
    assert (again.validation.loss, again.validation.accuracy) == (
        whole.found.validation.loss,
        whole.found.validation.accuracy,
    )
    for one, other in zip(again.model.get_weights(), whole.found.model.get_weights(), strict=True):
        assert np.array_equal(one, other)
    assert rows_of(tmp_path / "logs" / "steps.csv") == rows_of(whole.logs / "steps.csv")
    assert rows_of(tmp_path / "logs" / "epochs.csv") == rows_of(whole.logs / "epochs.csv")


@pytest.mark.slow
def test_early_stopping_goes_on_counting_where_it_was(engine, tmp_path):
    """Learned too fast: the fit is stopped by its patience, which began before the checkpoint."""
    options = {
        **{"epochs": 30, "patience": 4, "learning_rate": 0.003},
        **{"training": Points(200, seed=0), "in_order": Points(200)},
    }
    before = stopped(tmp_path / "logs", **options)
    assert 3 < len(before.found.history) < 30
    for checkpoint in before.checkpoints[:: len(before.checkpoints) // 4]:
        again = trained(logs=tmp_path / "again", checkpoint=checkpoint, **OPTIONS | options)
        assert again.history == before.found.history
        assert again.validation.loss == before.found.validation.loss


def test_the_loss_of_each_step_is_that_of_its_batch(whole):
    """Their mean over an epoch, weighted by their samples, is the loss of the epoch; the last batch is smaller."""
    rows = rows_of(whole.logs / "steps.csv")
    assert rows[0] == ["epoch", "step", "loss"]
    for epoch, logs in enumerate(whole.found.history):
        losses = [float(row[2]) for row in rows[1:] if row[0] == str(epoch)]
        sizes = [16] * 3 + [8]
        assert len(losses) == len(sizes)
        assert np.average(losses, weights=sizes) == pytest.approx(logs["loss"], rel=1e-6)


def test_a_checkpoint_of_another_training_is_refused(whole, tmp_path):
    with pytest.raises(CheckpointError, match="others"):
        trained(logs=tmp_path, checkpoint=whole.checkpoints[3], **OPTIONS | {"kind": "linear"})
    with pytest.raises(CheckpointError, match="others"):
        trained(logs=tmp_path, checkpoint=whole.checkpoints[3], **OPTIONS | {"optimizer": "adam"})


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
    found = trained(validation=held_out, validation_steps=2, epochs=2)
    expected = trained(validation=some, epochs=2)
    assert [logs["val_loss"] for logs in found.history] == [logs["val_loss"] for logs in expected.history]
    assert found.validation.confusion.sum() == 60


def test_batches_in_memory_train_as_those_they_came_from(usual):
    again = trained(validation=Held(tuple(Points(60, 2, draw=1).numbered())))
    assert again.history == usual.history


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
        ("training", 0, Unreadable("shard 12 is damaged; run repair")),
        ("training", 20, OSError(5, "Input/output error", "shard")),
        ("validation", 0, ValueError("a buffer is too small")),
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


# Trainings that diverge


@dataclass
class Broken(Points):
    """Points of which those of some epoch and step are not finite, so that the loss is not."""

    at: tuple[int, int] = (0, 0)
    value: float = float("nan")

    def batches(self, epoch=0, first_step=0, *, epochs=1):
        number, step = epoch, first_step
        for features, labels in super().batches(epoch, first_step, epochs=epochs):
            yield (np.full_like(features, self.value) if (number, step) == self.at else features), labels
            step += 1
            if step == self.steps:
                number, step = number + 1, 0


def test_a_training_stops_at_the_first_step_whose_loss_is_not_finite(engine, tmp_path):
    heard, points = [], Broken(64, seed=0, at=(1, 2))
    found = trained(training=points, epochs=5, report=heard.append, logs=tmp_path, kind="linear", standardize=False)
    assert found.diverged == Divergence(2, 3)
    with open(tmp_path / "steps.csv", newline="") as file:
        steps = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in steps[-1:]] == [("1", "2")]
    assert [np.isfinite(list(logs.values())).all() for logs in found.history] == [True, False]
    assert [record["epoch"] for record in heard if "loss" in record] == [1, 2]


def test_the_best_epoch_before_a_divergence_is_kept_with_its_figures(engine):
    found = trained(training=Broken(64, seed=0, at=(2, 0)), epochs=5, kind="linear", standardize=False)
    best = min(logs["val_loss"] for logs in found.history[:2])
    assert found.diverged == Divergence(3, 1)
    assert found.validation.loss == pytest.approx(best, rel=1e-5)
    assert all(np.isfinite(weights).all() for weights in found.model.get_weights())


@pytest.mark.parametrize("rate", [1e30, 1e38])
@pytest.mark.parametrize("steps", ["one step an epoch", "several"])
def test_a_training_of_which_no_epoch_is_finite_keeps_finite_weights_and_has_no_loss(engine, rate, steps):
    points = Points(64, seed=0, batch_size=64 if steps == "one step an epoch" else 16)
    found = trained(training=points, learning_rate=rate, epochs=3)
    assert found.diverged is not None
    assert found.diverged.epoch == len(found.history) == 1
    assert np.isnan(found.validation.loss)
    assert all(np.isfinite(weights).all() for weights in found.model.get_weights())


def test_a_validation_loss_that_is_not_finite_ends_the_training_too(engine):
    held_out = Points(20, draw=1, dtype="float32")
    held_out.features[:] = np.nan
    found = trained(validation=held_out, epochs=4, dtype="float32", kind="linear")
    assert (found.diverged, len(found.history)) == (Divergence(1), 1)


def test_weights_that_are_not_finite_are_a_divergence_though_relu_hides_them(engine):
    found = trained(training=Broken(64, seed=0, at=(1, 1)), epochs=5, standardize=False)
    assert found.diverged == Divergence(2)
    assert all(np.isfinite(weights).all() for weights in found.model.get_weights())


def test_a_training_that_is_resumed_diverges_where_it_would_have(engine):
    kept = []

    def keep(epoch, step, arrays, figures):
        kept.append(Checkpoint(epoch, step, {name: array.copy() for name, array in arrays}, copy.deepcopy(figures)))

    options = {"training": Broken(32, seed=0, at=(1, 1)), "epochs": 3, "kind": "linear", "standardize": False}
    whole = trained(keeping=Keeping(keep, 0.0), **options)
    assert [(each.epoch, each.step) for each in kept] == [(0, 1), (1, 0), (1, 1)]
    for each in kept:
        json.dumps(each.record, allow_nan=False)
        rest = trained(checkpoint=each, **options)
        assert (rest.diverged, rest.history[:1]) == (whole.diverged, whole.history[:1])
        assert rest.validation.loss == whole.validation.loss


def test_a_training_that_does_not_diverge_says_so(usual):
    assert usual.diverged is None
