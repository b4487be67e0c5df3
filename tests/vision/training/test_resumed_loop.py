"""A training that resumes from a checkpoint takes the steps that it would have taken."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.vision.training.points import Points, rows_of, trained
from vision.training.checkpoint import Checkpoint, CheckpointError
from vision.training.keeper import Keeping
from vision.training.loop import Trained

pytestmark = [
    # Keras 3.15 on NumPy 2, wherever it saves: keras/src/backend/tensorflow/core.py, convert_to_numpy.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]


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


def test_a_checkpoint_is_kept_between_any_two_steps_and_after_each_epoch(whole):
    losses = [logs["val_loss"] for logs in whole.found.history]
    assert losses.index(min(losses)) < EPOCHS - 1, "else nothing has to be remembered of the best epoch"
    assert [(c.epoch, c.step) for c in whole.checkpoints] == [
        place for epoch in range(EPOCHS) for place in [*((epoch, step) for step in range(1, STEPS)), (epoch + 1, 0)]
    ]


# After the first step, after an epoch, before the last step of one, after the best epoch, and after the last.
TAKEN = (0, 3, 6, 8, 11)


@pytest.mark.parametrize(
    "number", [n if n in TAKEN else pytest.param(n, marks=pytest.mark.slow) for n in range(STEPS * EPOCHS)]
)
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
