"""A training continues from the head of another one."""

import dataclasses
import shutil

import pytest

from storage.errors import InputError
from tests import toy
from tests.vision.report.test_report import Page
from tests.workers.jobs.trainer import SPEC, Trainer
from workers.jobs.head_identity import find_head
from workers.jobs.records import HeadJob
from workers.jobs.spaces import head_job, version_record

# Keras 3.15 warns on NumPy 2 whenever it saves (keras/src/backend/tensorflow/core.py, convert_to_numpy).
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture(scope="module")
def chained(first: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A copy of `first` with two more heads: one of epoch 1, and one that continued from it with epochs 2 and 3."""
    root = tmp_path_factory.mktemp("chained") / "store"
    shutil.copytree(first.root, root)
    made = dataclasses.replace(first, root=root)
    made.train(asked(made, 1, 0))
    made.result = made.train(asked(made, 3, 1))
    return made


def asked(trainer: Trainer, epochs: int, initial_epoch: int, seed: int = 0, **options) -> HeadJob:
    """The job that the command line makes from these options."""
    space = toy.space(trainer.images, trainer.root)
    spec = dataclasses.replace(SPEC, epochs=epochs, initial_epoch=initial_epoch, **options)
    return head_job(space, version_record(trainer.version), spec, seed)


def test_a_head_of_other_options_is_nothing_to_go_on_from(chained):
    for changed in ({"batch_size": 4}, {"kind": "linear"}, {"seed": 1}):
        with pytest.raises(InputError, match="train it first, with `epochs=3`"):
            asked(chained, 4, 3, **changed)


def test_trainings_can_be_chained(chained):
    """Each training continues from the head of the one before, and its head has its own name."""
    third = asked(chained, 4, 3)
    assert third.spec.initial_head == chained.result.name
    result = chained.train(third)
    assert (result.is_new, result.epochs) == (True, 1)
    logs = chained.store.head(result.name) / "logs" / "steps.csv"
    assert {line.split(",")[0] for line in logs.read_text().splitlines()[1:]} == {"3"}
    assert find_head(chained.store, asked(chained, 4, 3).name) is not None  # nothing to do
    page = Page.of((chained.store.head(result.name) / "report.html").read_text())
    assert "of epochs 4 to 4" in page.text

    # A head that was trained from the beginning takes precedence, under the name that it had before chains existed.
    chained.train(asked(chained, 3, 0))
    plain = asked(chained, 4, 3)
    assert (plain.spec.initial_head, "initial_head" in plain.spec.record()) == ("", False)
    assert plain.name == chained.job(epochs=4, initial_epoch=3).name != third.name
