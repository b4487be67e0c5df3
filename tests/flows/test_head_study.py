"""The study of heads: kinds, poolings and regularisations of one version, told with one table."""

import csv
import json
from functools import partial

import pytest

from flows.cli import command as command_line
from flows.options.study import HeadStudyOptions
from flows.registry import HEAD_STUDY
from storage.heads.current import current_head
from tests import toy
from tests.flows.in_process import call
from tests.flows.test_batch_size_study import FILES, arguments, committed, filled  # noqa: F401 - fixtures

main = partial(command_line.main, HEAD_STUDY)


def parse(given: list[str]) -> HeadStudyOptions:
    return command_line.parse(HEAD_STUDY, given)[0]


def test_a_head_is_trained_once_however_many_batch_sizes_and_seeds_it_does_not_depend_on(committed):  # noqa: F811
    given = ("--batch-sizes", "4,16", "--seeds", "0,7", "--head-poolings", "avg+max,max", "--l2", "auto,0.1")
    jobs = parse(arguments(committed, *given)).study().jobs
    counts = {kind: sum(job.spec.kind == kind for job in jobs) for kind in ("mlp", "pooled", "logistic")}
    assert counts == {"mlp": 4, "pooled": 8, "logistic": 4}
    assert {job.spec.l2 for job in jobs if job.spec.kind == "logistic"} == {None, 0.1}
    assert {job.promote for job in jobs} == {"never"}


def test_the_heads_are_those_that_the_pipeline_would_train(committed):  # noqa: F811
    from flows.options.pipeline import PipelineOptions

    study = parse(arguments(committed, "--seeds", "0")).study()
    names = {job.name for job in study.jobs}
    for job in PipelineOptions(images="photos").head_jobs(study.space, study.version):
        assert job.name in names


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--heads", "mlp,cnn"], "--heads: expected 'mlp', 'linear', 'pooled' or 'logistic'"),
        (["--head-poolings", "sum"], "--head-poolings: expected 'avg+max', 'avg' or 'max'"),
        (["--l2", "-1"], "--l2"),
        (["--l2", "some"], "--l2"),
    ],
)
def test_what_cannot_work_is_one_line_and_status_2(capsys, committed, given, expected):  # noqa: F811
    assert main(["--store", str(committed), *given]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line


@pytest.mark.slow
def test_a_study_trains_every_head_and_advises_one_that_can_be_typed(capsys, environment, filled):  # noqa: F811
    given = arguments(filled, "--seeds", "0", "--epochs", "2", "--l2", "auto,0.1", "--heads", "pooled,logistic,mlp")
    done = call(main, environment, "--runner", "inline", *given)
    assert done.status == 0, done.stderr
    assert (done.record["trainings"], done.record["trained"], current_head(toy.space(filled, filled).store)) == (
        4,
        4,
        None,
    )
    out = filled.parent / "out"
    assert sorted(path.name for path in out.iterdir()) == FILES
    with open(out / "study.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["pooled", "logistic", "logistic", "mlp"]
    text = (out / "study.md").read_text()
    assert text.startswith("# Heads\n")
    assert "logistic avg+max, L2 0.1" in text
    advised = json.loads((out / "study.json").read_text())["advice"]
    assert advised["head"] in ("pooled", "logistic", "mlp")
    assert main(given) == 0
    assert "nothing to train: 4 trainings done before" in capsys.readouterr().err


def test_both_studies_have_one_body():
    """The older command is the newer one with one kind of head."""
    from flows import batch_size_study, head_study

    assert batch_size_study.run_study is head_study.run_study
