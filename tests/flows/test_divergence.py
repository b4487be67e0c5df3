"""A training that diverged, from the command line: heads are pretended, and neither Prefect nor TensorFlow is loaded."""

import json
import subprocess
import sys
from functools import partial

import pytest

from flows.cli import command
from flows.options.flat import checked
from flows.options.maintenance import MaintenanceOptions
from flows.options.pipeline import PipelineOptions
from flows.options.study import BatchSizeStudyOptions
from flows.options.watch import WatchOptions
from flows.registry import PIPELINE
from storage.errors import InputError
from storage.heads.current import current_head, promote_head
from storage.heads.registry import RECORD
from storage.manifest.versions import latest_version
from storage.records import sealed
from tests import toy
from tests.flows.conftest import PROJECT
from workers.jobs.records import HeadJob
from workers.jobs.spaces import version_record

TINY = ("--weights", "random", "--image-size", "32", "--head", "mlp")
main = partial(command.main, PIPELINE)
parse = partial(command.parse, PIPELINE)
NAN = float("nan")


def read(line: str) -> dict:
    """A line of JSON as strict parsers take it."""
    return json.loads(line, parse_constant=lambda constant: pytest.fail(f"a bare {constant}"))


@pytest.fixture
def committed(images, store, capsys) -> tuple[str, ...]:
    """Arguments for a store that holds every image."""
    given = ("--images", str(images), "--store", str(store), *TINY)
    toy.run(images, store, validation_fraction=0.2, chunk_size=256)
    toy.adopt_space(images, store, parse([*given])[0].space())
    capsys.readouterr()
    return given


def pretend(job: HeadJob, val_loss: float = 0.5, is_older: bool = False, **more) -> None:
    """A head as a training of the job would have left it, or as an older program did: with bare NaN."""
    metrics = {"epochs": 1, "val_accuracy": 0.5, "train_seconds": 1.0, "train_samples_per_second": 1.0}
    logs = {"loss": val_loss, "accuracy": 0.5, "val_loss": val_loss, "val_accuracy": 0.5}
    record = {"head": job.spec.record(), "metrics": metrics | {"val_loss": val_loss}, "history": [logs], **more}
    toy.head(job.space.store, job.name, record, b"a head")
    if is_older:
        path = job.space.store.head(job.name) / RECORD
        kept = json.loads(path.read_text())
        path.write_text(json.dumps(sealed(record | {"model": kept["model"]})))


def jobs_of(given: tuple[str, ...]) -> tuple[HeadJob, HeadJob | None]:
    options, _ = parse([*given])
    space = options.space()
    version = version_record(latest_version(space.store))
    (head,) = options.head_jobs(space, version)
    return head, options.fine_tune_job(space, version, head)


@pytest.mark.parametrize("is_older", [False, True])
def test_a_head_that_diverged_is_status_2_with_one_line_of_advice_and_json_without_nan(committed, capsys, is_older):
    given = (*committed, "--learning-rate", "1e30", "--optimizer", "sgd")
    pretend(jobs_of(given)[0], NAN, is_older, **({} if is_older else {"diverged": {"epoch": 1, "step": 2}}))
    assert main([*given]) == 2
    out, err = capsys.readouterr()
    record = read(out.splitlines()[-1])
    assert (record["val_loss"], record["promoted"], record["head"]) == (None, False, jobs_of(given)[0].name)
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: the training diverged at a learning rate of 1e+30: ")
    assert "; try --learning-rate 0.01. " in line
    pretend(jobs_of((*committed, "--learning-rate", "0.01", "--optimizer", "sgd"))[0])  # what is advised can be typed
    assert main([*committed, "--learning-rate", "0.01", "--optimizer", "sgd"]) == 0


def test_the_rate_that_is_advised_is_always_lower(committed, capsys):
    for rate, advised in (("1e30", "0.001"), ("0.005", "0.0005"), ("0.0001", "1e-05")):
        given = (*committed, "--learning-rate", rate)
        pretend(jobs_of(given)[0], NAN)
        assert main([*given]) == 2
        assert f"try --learning-rate {advised}." in capsys.readouterr().err


def test_the_best_epoch_before_a_divergence_can_be_made_the_current_head(committed, capsys):
    given = (*committed, "--learning-rate", "0.1")
    job, _ = jobs_of(given)
    pretend(job, 0.25, diverged={"epoch": 3, "step": None})
    assert main([*given]) == 2
    line = capsys.readouterr().err
    assert "the validation loss of epoch 3 is not finite" in line
    assert f"Head {job.name} keeps the best epoch before that (val_loss 0.25); it is not the current head" in line
    command = line.split("`")[1].split()
    assert subprocess.run([sys.executable, *command[1:]], cwd=PROJECT, check=False).returncode == 0
    assert current_head(job.space.store) == job.name
    assert main([*given]) == 2
    assert "it is the current head, because somebody promoted it" in capsys.readouterr().err


def test_promote_does_not_start_anything_for_a_head_that_diverged_and_never_becomes_current(committed, capsys):
    given = (*committed, "--learning-rate", "1e30", "--promote")
    pretend(jobs_of(given)[0], NAN)
    assert main([*given]) == 2
    assert "starting Prefect" not in capsys.readouterr().err


def test_fine_tuning_that_diverged_advises_its_own_learning_rate(committed, capsys):
    given = (*committed, "--fine-tune", "block5", "--fine-tune-learning-rate", "100")
    head, tuned = jobs_of(given)
    pretend(head)
    promote_head(head.space.store, head.name)
    pretend(tuned, NAN, base=head.name)
    assert main([*given]) == 2
    out, err = capsys.readouterr()
    assert "try --fine-tune-learning-rate 1e-05." in err
    record = read(out.splitlines()[-1])
    assert (record["val_loss"], record["model"], record["model_val_loss"]) == (0.5, tuned.name, None)


def test_nothing_is_fine_tuned_from_a_head_that_diverged(committed, capsys):
    given = (*committed, "--fine-tune", "block5")
    pretend(jobs_of(given)[0], NAN)
    assert main([*given]) == 2
    assert "try --learning-rate 0.0001." in capsys.readouterr().err


# Numbers that are none


def floats(model) -> list[str]:
    return [name for name, field in model.model_fields.items() if "float" in str(field.annotation)]


@pytest.mark.parametrize("model", [PipelineOptions, BatchSizeStudyOptions, WatchOptions, MaintenanceOptions])
@pytest.mark.parametrize("value", ["inf", "nan", "-inf", "1e999", float("inf"), NAN])
def test_no_option_takes_what_is_not_finite(model, value):
    assert floats(model)
    for name in floats(model):
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')}: "):
            checked(model, {name: value})


def test_neither_does_a_file_of_parameters_nor_prefect(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("learning_rate: .inf\n")
    assert main(["--config", str(tmp_path / "run.yaml")]) == 2
    assert "--learning-rate: expected a finite number" in capsys.readouterr().err
    assert main(["--learning-rate", "inf"]) == 2
    assert "--learning-rate: expected a finite number, got 'inf'" in capsys.readouterr().err


@pytest.mark.slow
def test_prefect_parameters_that_are_not_finite_are_refused_before_anything_runs():
    from flows.pipeline import extract_and_train

    with pytest.raises(InputError, match="--learning-rate: expected a finite number"):
        extract_and_train.fn(learning_rate=float("inf"))


@pytest.mark.slow
def test_a_training_that_diverges_leaves_the_current_head_and_blocks_no_later_one(pipeline, environment, again):
    images, store = again
    arguments = ("--images", images, "--store", store, *TINY)
    before = (store / "heads" / "current").read_text()
    done = pipeline(*arguments, "--learning-rate", "1e30")
    assert (done.status, done.record["promoted"], done.record["val_loss"]) == (2, False, None), done.stderr
    assert (store / "heads" / "current").read_text() == before
    assert "Traceback" not in done.stderr
    again = pipeline(*arguments, "--learning-rate", "1e30")
    assert (again.status, "starting Prefect" in again.stderr) == (2, False)
    advised = done.stderr.split("try --learning-rate ")[1].split(". ")[0]
    assert pipeline(*arguments, "--learning-rate", advised, "--promote").status == 0
