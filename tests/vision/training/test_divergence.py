"""A training whose loss is no longer finite stops, and keeps the best weights before that."""

import copy
import json
from dataclasses import dataclass

import numpy as np
import pytest

from tests.vision.training.points import Points, rows_of, trained
from vision.training.checkpoint import Checkpoint
from vision.training.course import Divergence
from vision.training.keeper import Keeping

pytestmark = [
    # Keras 3.15 on NumPy 2, wherever it saves: keras/src/backend/tensorflow/core.py, convert_to_numpy.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]


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


def test_a_training_stops_at_the_first_step_whose_loss_is_not_finite_and_keeps_the_best_epoch(engine, tmp_path):
    heard, points = [], Broken(64, seed=0, at=(2, 2))
    found = trained(training=points, epochs=5, report=heard.append, logs=tmp_path, kind="linear", standardize=False)
    assert found.diverged == Divergence(3, 3)
    steps = rows_of(tmp_path / "steps.csv")
    assert steps[-1][:2] == ["2", "2"]
    assert [np.isfinite(list(logs.values())).all() for logs in found.history] == [True, True, False]
    assert [record["epoch"] for record in heard if "loss" in record] == [1, 2, 3]
    best = min(logs["val_loss"] for logs in found.history[:2])
    assert found.validation.loss == pytest.approx(best, rel=1e-5)
    assert all(np.isfinite(weights).all() for weights in found.model.get_weights())


@pytest.mark.parametrize(
    ("rate", "steps"),
    [
        (1e30, "several"),
        (1e38, "one step an epoch"),
        pytest.param(1e30, "one step an epoch", marks=pytest.mark.slow),
        pytest.param(1e38, "several", marks=pytest.mark.slow),
    ],
)
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
    for each in (kept[0], kept[-1]):
        json.dumps(each.record, allow_nan=False)
        rest = trained(checkpoint=each, **options)
        assert (rest.diverged, rest.history[:1]) == (whole.diverged, whole.history[:1])
        assert rest.validation.loss == whole.validation.loss
