"""The study of batch sizes: its options, its report on heads that are there, and one run of the flow."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml

from flows.cli import command
from flows.options.study import BatchSizeStudyOptions
from flows.registry import STUDY
from storage.heads.current import current_head
from storage.heads.registry import list_heads
from storage.layout import Store
from storage.manifest.space import create_space
from storage.records import fingerprint
from tests import toy
from tests.flows.conftest import PROJECT
from tests.flows.in_process import Done, call
from tests.flows.started import wait_until

main = partial(command.main, STUDY)
FILES = ["study.csv", "study.json", "study.md", "study.png"]


def parse(given: list[str]) -> BatchSizeStudyOptions:
    return command.parse(STUDY, given)[0]


@pytest.fixture(scope="session")
def committed(tmp_path_factory) -> Path:
    """A store with one version of 40 pictures and no head; for reading only."""
    folder = tmp_path_factory.mktemp("study")
    toy.run(toy.pictures(folder / "images", per_class=20), folder / "store", validation_fraction=0.4)
    return folder / "store"


@pytest.fixture
def filled(committed, store) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(committed, store))


def arguments(store: Path, *more: object) -> list[str]:
    return [*map(str, ("--store", store, "--out", store.parent / "out", *more))]


def pretend(options: BatchSizeStudyOptions) -> None:
    """Put heads in place that tell of trainings: batch size 4 does best, 16 diverges with raw features."""
    study = options.study()
    for job in study.jobs:
        spec, loss = job.spec, 0.01 * job.spec.batch_size
        last = float("nan") if spec.batch_size == 16 and not spec.standardize else loss
        logs = {"loss": last, "accuracy": 1 - loss, "val_loss": loss, "val_accuracy": 1 - loss}
        record = {
            "head": spec.record(),
            "seed": job.seed,
            "history": [logs, logs],
            "metrics": {
                "epochs": 2,
                "val_accuracy": 1 - loss - 0.001 * job.seed,
                "val_loss": loss,
                "train_seconds": 4.0,
                "train_samples_per_second": 12.0,
            },
            "samples": {"train": 24, "validation": 16},
            "confusion": [[8, 0], [0, 8]],
            "epoch_seconds": [3.0, 1.0 / spec.batch_size],
        }
        toy.head(study.space.store, job.name, record, b"a head")


# Options


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--batch-sizes", "8,many"], "--batch-sizes: expected a valid integer"),
        (["--batch-sizes", "0"], "--batch-sizes: expected greater than or equal to 1"),
        (["--batch-sizes", ""], "--batch-sizes"),
        (["--seeds", "-1"], "--seeds"),
        (["--seeds", str(2**32)], "--seeds"),
        (["--standardize", "maybe"], "'both', 'yes' or 'no'"),
        (["--sampling", "all"], "'both', 'shuffle' or 'bootstrap'"),
        (["--images", "photos"], "--images"),
        (["--version", "2"], "there is no version 2"),
        (["--space", "ffff"], "there is no such feature space"),
        (["--classes", "cats,cows"], "--classes names 'cows'"),
        (
            ["--classes", "cats"],
            "name more classes with --classes, or run the pipeline on images of more classes first",
        ),
        (["--out", "s3://bucket/out"], "--out: s3://bucket/out is not a local folder"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_what_cannot_work_is_one_line_and_status_2(capsys, committed, given, expected):
    status = main(["--store", str(committed), *given])
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert (status, captured.out, line.startswith("error: ")) == (2, "", True)
    assert expected in line
    assert "Tuple" not in line
    assert "--extract-only" not in line, "a study has no such flag"


def test_a_folder_that_is_no_store_is_refused(capsys, tmp_path):
    assert main(["--store", str(tmp_path)]) == 2
    assert "is not a store" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder_is_refused(capsys, committed, tmp_path):
    (tmp_path / "out").write_text("")
    assert main(["--store", str(committed), "--out", str(tmp_path / "out")]) == 2
    assert "--out" in capsys.readouterr().err


def test_of_several_feature_spaces_one_has_to_be_named(capsys, filled):
    other = replace(toy.SPEC, pooling="max").record()
    create_space(Store(filled, fingerprint(other)), other)
    assert main(arguments(filled)) == 2
    assert "has 2 feature spaces; choose one with --space PREFIX" in capsys.readouterr().err


def test_every_combination_is_trained_once(committed):
    options = parse(arguments(committed, "--batch-sizes", "4,16,4", "--seeds", "0,7"))
    jobs = options.study().jobs
    told = {(job.spec.batch_size, job.seed, job.spec.standardize, job.spec.sampling) for job in jobs}
    assert len(jobs) == len(told) == len({job.name for job in jobs}) == 2 * 2 * 2 * 2
    assert {job.promote for job in jobs} == {"never"}


def test_one_way_of_training_alone_can_be_asked_for(committed):
    given = ("--standardize", "no", "--sampling", "bootstrap", "--batch-sizes", "4", "--seeds", "1")
    (job,) = parse(arguments(committed, *given)).study().jobs
    assert (job.spec.standardize, job.spec.sampling, job.spec.batch_size, job.seed) == (False, "bootstrap", 4, 1)


def test_the_heads_are_those_that_the_pipeline_would_train(committed):
    """The same digest: whoever takes the advice does not train again."""
    from flows.options.pipeline import PipelineOptions

    study = parse(arguments(committed, "--batch-sizes", "16", "--seeds", "2", "--epochs", "3")).study()
    same = PipelineOptions(images="photos", head="mlp", batch_size=16, seed=2, epochs=3)
    assert same.head_jobs(study.space, study.version)[0].name in {job.name for job in study.jobs}


@pytest.mark.parametrize("written", ["8,32", "[8, 32]", "[8, 32, 8]"])
def test_numbers_are_the_same_however_they_are_written(tmp_path, written):
    from prefect.utilities.schema_tools import validate

    from flows.batch_size_study import batch_size_study

    (tmp_path / "study.yaml").write_text(f"batch_sizes: {written}\nseeds: 1\n")
    options = parse(["--config", str(tmp_path / "study.yaml")])
    assert (options.batch_sizes, options.seeds) == ((8, 32), (1,))
    given = {"batch_sizes": yaml.safe_load(written), "seeds": 1}
    assert batch_size_study.validate_parameters(given)["batch_sizes"] == (8, 32)
    validate(given, batch_size_study.parameters.model_dump_for_openapi(), raise_on_error=True)


def test_prefect_parameters_are_flat_optional_and_described():
    from flows.batch_size_study import batch_size_study

    assert batch_size_study.parameters.required == []
    described = {name: schema.get("description") for name, schema in batch_size_study.parameters.properties.items()}
    assert described == {name: field.description for name, field in BatchSizeStudyOptions.model_fields.items()}


def test_help_names_every_parameter(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in text for name in BatchSizeStudyOptions.model_fields)
    assert "--batch-sizes N,N" in text
    assert "(8,32,128)" in text


# The report


def test_a_study_whose_heads_are_there_is_told_without_prefect(capsys, filled):
    given = arguments(filled, "--batch-sizes", "4,16", "--seeds", "0,1", "--epochs", "2", "--sampling", "shuffle")
    pretend(parse(given))
    assert main(given) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out.splitlines()[-1])
    assert (record["trainings"], record["trained"], record["faulty"], record["version"]) == (8, 0, 2, 1)
    assert (record["batch_size"], record["val_accuracy"]) == (4, pytest.approx(0.9595))
    out = filled.parent / "out"
    assert (record["out"], sorted(path.name for path in out.iterdir())) == (str(out), FILES)
    assert "nothing to train: 8 trainings done before" in captured.err
    assert captured.err.count("loss is not finite") == 2


def test_the_files_of_a_study_tell_the_same(capsys, filled):
    given = arguments(filled, "--batch-sizes", "4,16", "--seeds", "0,1", "--epochs", "2")
    pretend(parse(given))
    assert main(given) == 0
    out = filled.parent / "out"
    told = json.loads((out / "study.json").read_text())["trainings"]
    with open(out / "study.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(told) == len(lines) == 16
    assert [row["head"] for row in told] == [line["head"] for line in lines]
    assert {row["last_loss"] for row in told if row["faults"]} == {None}
    assert {float(line["epoch_seconds"]) for line in lines} == {0.25, 0.0625}
    text = (out / "study.md").read_text()
    assert text.count("\n| ") == 2 + 8  # a head and a line a combination
    assert "1606.02677" not in text
    assert "arXiv:2205.10287" in text
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")


def test_of_sizes_with_room_for_every_image_one_is_trained_and_it_is_said(capsys, filled):
    given = arguments(filled, "--batch-sizes", "4,1000,300,500", "--seeds", "0", "--standardize", "yes")
    study = parse(given).study()
    images = sum(study.version.classes["train"].values())
    assert {job.spec.batch_size for job in study.jobs} == {4, 300}
    pretend(parse(given))
    assert main(given) == 0
    err = capsys.readouterr().err
    assert f"batch sizes over the {images} training images are one training" in err
    rates = json.loads((filled.parent / "out" / "study.json").read_text())["advice"]["learning_rates"]
    assert set(rates) == {"4", "24"}  # as many as the pretended trainings had


def test_a_study_of_which_each_training_diverged_is_told_with_a_lower_rate_to_try(capsys, filled):
    given = arguments(filled, "--batch-sizes", "16", "--seeds", "0,1", "--standardize", "no", "--learning-rate", "1e30")
    pretend(parse(given))
    assert main(given) == 0
    out, err = capsys.readouterr()
    record = json.loads(out.splitlines()[-1], parse_constant=lambda constant: pytest.fail(f"a bare {constant}"))
    assert (record["faulty"], record["batch_size"], record["val_accuracy"]) == (4, None, None)
    assert "no advice: every combination diverged at a learning rate of 1e+30; try --learning-rate 0.001" in err
    assert json.loads((filled.parent / "out" / "study.json").read_text())["advice"] is None
    assert sorted(path.name for path in (filled.parent / "out").iterdir()) == FILES
    assert parse(arguments(filled, "--learning-rate", "0.001")).learning_rate == 0.001


# The flow


@pytest.mark.slow
def test_a_training_that_diverges_is_a_row_and_not_the_end_of_the_study(environment, filled):
    given = arguments(
        filled,
        "--batch-sizes",
        "4,16",
        "--seeds",
        "0",
        "--sampling",
        "shuffle",
        "--epochs",
        "2",
        "--learning-rate",
        "1e30",
    )
    done = study_of(environment, *given)
    assert (done.status, done.record["trained"], done.record["faulty"]) == (0, 4, 4), done.stderr
    assert study_of(environment, *given).record["trained"] == 0


def study_of(environment: dict[str, str], *given: str) -> Done:
    return call(main, environment, "--runner", "inline", *given)


@pytest.mark.slow
def test_a_study_trains_each_combination_and_promotes_none(environment, filled, capsys):
    given = arguments(filled, "--batch-sizes", "4,16", "--seeds", "0", "--sampling", "shuffle", "--epochs", "2")
    done = study_of(environment, *given)
    assert done.status == 0, done.stderr
    assert (done.record["trainings"], done.record["trained"]) == (4, 4)
    store = toy.space(filled, filled).store
    assert current_head(store) is None
    assert len(list_heads(filled)) == 4
    assert done.stderr.count("val_accuracy 0.") >= 4
    assert sorted(path.name for path in (filled.parent / "out").iterdir()) == FILES

    assert main(given) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (again["trained"], again["val_accuracy"]) == (0, done.record["val_accuracy"])


@pytest.mark.slow
def test_a_study_that_is_asked_again_trains_only_what_is_missing(environment, filled):
    given = arguments(filled, "--batch-sizes", "4,16", "--seeds", "0,1", "--epochs", "1", "--sampling", "shuffle")
    assert study_of(environment, *given).record["trained"] == 8
    heads = sorted(filled.glob("heads/*/head.json"))
    times = {path: path.stat().st_mtime_ns for path in heads}
    for path in heads[:3]:
        path.unlink()
    again = study_of(environment, *given)
    assert (again.record["trainings"], again.record["trained"]) == (8, 3)
    assert [path for path in heads if path.stat().st_mtime_ns == times[path]] == heads[3:]


@pytest.mark.slow
def test_a_study_that_is_interrupted_keeps_what_it_has_trained(environment, filled):
    given = arguments(filled, "--batch-sizes", "4,16", "--seeds", "0,1,2,3", "--epochs", "3")
    call = [sys.executable, PROJECT / "flows" / "batch_size_study.py", *given]
    pipe = subprocess.PIPE
    process = subprocess.Popen(call, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=PROJECT.parent)
    wait_until(lambda: len(list(filled.glob("heads/*/head.json"))) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        said.splitlines()[-1]
        == "error: interrupted; finished trainings are kept, and the next study continues from them"
    )
    assert 2 <= len(list(filled.glob("heads/*/head.json"))) < 32


@pytest.mark.slow
def test_a_head_of_a_study_becomes_the_current_one_once_the_pipeline_asks_for_it(pipeline, environment, again):
    """The pipeline does not take a head that nobody has compared for a run with nothing to do."""
    images, store = again
    (store / "heads" / "current").unlink()
    given = ("--batch-sizes", "8", "--seeds", "5", "--epochs", "2", "--standardize", "yes", "--sampling", "shuffle")
    studied = study_of(environment, *arguments(store, *given))
    assert (studied.status, studied.record["trained"]) == (0, 1), studied.stderr
    tiny = (
        "--weights",
        "random",
        "--image-size",
        "32",
        "--head",
        "mlp",
        "--epochs",
        "2",
        "--batch-size",
        "8",
        "--seed",
        "5",
    )
    done = pipeline("--images", images, "--store", store, *tiny)
    assert (done.status, done.record["promoted"]) == (0, True), done.stderr
    assert done.record["head"] in {head.name for head in list_heads(store)}
    assert len(list_heads(store)) == 2
    assert "nothing to do" in pipeline("--images", images, "--store", store, *tiny).stderr
