"""`--head auto`: two heads of a run, of which the better one becomes current."""

import json
from pathlib import Path

import pytest

from flows.cli.command import parse as parse_command
from flows.registry import PIPELINE
from storage.heads.current import promote_head
from storage.heads.registry import list_heads
from storage.manifest.versions import latest_version
from tests import toy
from tests.flows.conftest import TINY
from tests.flows.in_process import Done
from tests.flows.test_divergence import NAN, main, read
from workers.jobs.records import HeadJob
from workers.jobs.spaces import version_record

SPACE = ("--weights", "random", "--image-size", "32", "--chunk-size", "16")


@pytest.fixture
def committed(images, store, capsys) -> tuple[str, ...]:
    """Arguments for a store that holds every image and no head."""
    given = ("--images", str(images), "--store", str(store), *SPACE)
    toy.run(images, store, validation_fraction=0.2, chunk_size=256)
    toy.adopt_space(images, store, options_of(given).space())
    capsys.readouterr()
    return given


def options_of(given: tuple[str, ...]):
    return parse_command(PIPELINE, [*given])[0]


def jobs_of(given: tuple[str, ...]) -> tuple[HeadJob, ...]:
    options = options_of(given)
    space = options.space()
    return options.head_jobs(space, version_record(latest_version(space.store)))


def pretend(job: HeadJob, val_accuracy: float, val_loss: float, **more) -> None:
    """A head as a training of the job would have left it."""
    has_epochs = job.spec.has_epochs
    logs = {"loss": val_loss, "accuracy": 0.5, "val_loss": val_loss, "val_accuracy": val_accuracy}
    metrics = {"epochs": 1 if has_epochs else None, "val_accuracy": val_accuracy, "val_loss": val_loss}
    metrics |= {"train_seconds": 1.0, "train_samples_per_second": 1.0}
    record = {"head": job.spec.record(), "metrics": metrics, "history": [logs] if has_epochs else [], **more}
    toy.head(job.space.store, job.name, record, b"a head")


def test_two_heads_are_trained_and_the_tutorials_has_the_name_that_it_has_alone(committed):
    jobs = jobs_of(committed)
    assert [job.spec.kind for job in jobs] == ["logistic", "mlp"]
    assert jobs[1].name == jobs_of((*committed, "--head", "mlp"))[0].name
    assert jobs[0].name == jobs_of((*committed, "--head", "logistic"))[0].name
    assert [job.promote for job in jobs_of((*committed, "--promote"))] == ["always", "if_better"]
    assert {job.is_forced for job in jobs_of((*committed, "--force-retrain"))} == {True}
    assert jobs_of((*committed, "--epochs", "3", "--steps-per-epoch", "2"))[0].name == jobs[0].name


def test_on_images_only_the_head_of_epochs_is_trained_on_images(committed):
    on_images = ("--train-on", "images", "--augment", "{rotation_range: 20}")
    logistic, mlp = jobs_of((*committed, *on_images))
    assert (logistic.spec.train_on, logistic.spec.augment, mlp.spec.train_on) == ("features", "", "images")
    assert logistic.name == jobs_of(committed)[0].name


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--train-on", "images"], "--train-on: a solver fits a logistic head once"),
        (["--initial-epoch", "2"], "--initial-epoch: a solver fits a logistic head"),
        (["--l2", "0"], "--l2: expected greater than 0"),
    ],
)
def test_what_a_solver_cannot_do_is_one_line_and_status_2(committed, capsys, more, expected):
    assert main([*committed, "--head", "logistic", *more]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("is_mlp_better", [True, False])
def test_there_is_nothing_to_do_once_both_heads_are_there_and_the_figures_are_those_of_the_current_one(
    committed, capsys, is_mlp_better
):
    logistic, mlp = jobs_of(committed)
    pretend(logistic, 0.75, 0.5)
    pretend(mlp, 0.875 if is_mlp_better else 0.625, 0.4)
    better = mlp if is_mlp_better else logistic
    promote_head(better.space.store, better.name)
    assert main([*committed]) == 0
    record = read(capsys.readouterr().out.splitlines()[-1])
    assert (record["head"], record["promoted"]) == (better.name, True)
    assert record["epochs"] == (1 if is_mlp_better else None)
    assert [(each["kind"], each["head"], each["promoted"]) for each in record["heads"]] == [
        ("logistic", logistic.name, not is_mlp_better),
        ("mlp", mlp.name, is_mlp_better),
    ]
    assert record["val_accuracy"] == max(each["val_accuracy"] for each in record["heads"])


def test_fine_tuning_continues_from_the_current_one_of_the_two_heads(committed):
    given = (*committed, "--fine-tune", "block5")
    options, jobs = options_of(given), jobs_of(given)
    for job in jobs:
        version = version_record(latest_version(job.space.store))
        tuning = options.fine_tune_job(job.space, version, job)
        assert (tuning.spec.kind, tuning.spec.fine_tune, tuning.promote) == (job.spec.kind, "block5", "never")
        assert tuning.spec.untuned.record() == job.spec.record()
        assert tuning.spec.record()["batch_size"] == 128


def test_a_head_that_is_too_sure_brings_advice_that_can_be_typed(committed, capsys):
    logistic, mlp = jobs_of(committed)
    pretend(logistic, 0.876, 0.36)
    pretend(mlp, 0.837, 0.99)
    promote_head(logistic.space.store, logistic.name)
    assert main([*committed]) == 0
    said = capsys.readouterr().err
    assert "the mlp head is overconfident: val_loss 0.9900 against 0.3600" in said
    advised = said.split("try ")[1].split()[:2]
    assert advised == ["--learning-rate", "0.0001"]
    others = jobs_of((*committed, *advised))
    assert (others[0].name, others[1].spec.learning_rate) == (logistic.name, 0.0001)
    pretend(mlp, 0.837, 0.47)
    assert main([*committed]) == 0
    assert "overconfident" not in capsys.readouterr().err


def test_a_training_that_diverged_is_a_warning_while_the_other_head_is_there(committed, capsys):
    given = (*committed, "--learning-rate", "1e30")
    logistic, mlp = jobs_of(given)
    pretend(logistic, 0.75, 0.5)
    pretend(mlp, 0.5, NAN, diverged={"epoch": 1, "step": 2})
    promote_head(logistic.space.store, logistic.name)
    assert main([*given]) == 0
    out, err = capsys.readouterr()
    assert read(out.splitlines()[-1])["head"] == logistic.name
    assert "warning: the training diverged at a learning rate of 1e+30" in err
    assert "try --learning-rate 0.001." in err


def test_a_run_trains_the_head_that_is_missing_and_the_better_one_is_current(pipeline, again):
    """The store of the first run has the mlp."""
    images, store = again
    done: Done = pipeline("--images", images, "--store", store, *TINY, "--head", "auto")
    assert done.status == 0, done.stderr
    assert len(list_heads(store)) == 2
    heads = {each["kind"]: each for each in done.record["heads"]}
    assert "logistic head" in done.stderr
    assert "mlp head" in done.stderr
    by_rank = sorted(heads.values(), key=lambda each: (each["val_accuracy"], -each["val_loss"]))
    current = (store / "heads" / "current").read_text().strip()
    assert done.record["head"] == current == by_rank[-1]["head"]
    assert "nothing to do" in pipeline("--images", images, "--store", store, *TINY, "--head", "auto").stderr


@pytest.mark.slow
def test_promote_makes_the_better_of_the_two_current_whatever_was_before(pipeline, again):
    images, store = again
    flags = ("--images", images, "--store", store, *TINY, "--head", "auto", "--seed", "3", "--promote")
    done = pipeline(*flags)
    assert done.status == 0, done.stderr
    assert done.record["promoted"]
    assert json.loads(json.dumps(done.record["heads"])) == done.record["heads"]
    assert Path(store / "heads").is_dir()
    assert "nothing to do" in pipeline(*flags).stderr
