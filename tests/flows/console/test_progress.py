"""Meters and words: figures that follow from what was reported, at the pace at which it was."""

import dataclasses
import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from flows.console import progress
from flows.console.messages import changes, duration, reported, trained
from flows.console.progress import Progress
from flows.console.training_progress import Training
from tests import toy
from vision.training.head import HeadSpec
from workers.jobs.records import HeadJob, HeadResult


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("is_terminal", "kind", "deployment", "expected"),
    [
        (True, "xterm-256color", "", True),
        (True, "dumb", "", False),
        (True, "xterm-256color", "0f7e2d9c-0000-0000-0000-000000000000", False),
        (False, "xterm-256color", "", False),
    ],
)
def test_bars_are_for_a_person_at_a_terminal(monkeypatch, is_terminal, kind, deployment, expected):
    """Not for a deployment, even if its worker was started on a terminal."""
    output, environment = io.StringIO(), {"TERM": kind}
    console = Console(file=output, force_terminal=is_terminal, _environ=environment)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    monkeypatch.setattr(progress, "get_run_logger", lambda: logging.getLogger("a run"))
    if deployment:
        monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", deployment)
    with progress.shown() as shown, shown.step("extract"):
        shown.meter("extract", 10, "images").update(5)
    assert ("━" in output.getvalue()) == expected


def test_a_meter_says_done_rate_and_time_left_every_ten_seconds(clock):
    lines = []
    meter = Progress(lines.append).meter("extract", 1000, "images")
    for done in range(0, 101, 10):
        clock[0] += 2
        meter.update(done, "infer 99%")
    assert lines == [
        "extract: 40 of 1,000 images, 5.0 images/s, 3 min left (infer 99%)",
        "extract: 90 of 1,000 images, 5.0 images/s, 3 min left (infer 99%)",
    ]


def test_the_rate_counts_from_the_first_report_so_that_a_slow_start_does_not_spoil_it(clock):
    lines = []
    meter = Progress(lines.append).meter("extract", 100, "images")
    clock[0] += 60
    meter.update(0)
    clock[0] += 10
    meter.update(50)
    assert lines[-1] == "extract: 50 of 100 images, 5.0 images/s, 10 s left"


def test_a_training_is_one_meter_over_all_its_epochs_after_that_of_the_statistics(clock):
    lines = []
    training = Training(Progress(lines.append))
    for epoch, step in [(0, 1), (0, 4), (1, 1), (1, 4), (2, 2)]:
        clock[0] += 10
        training.on_progress({"epoch": epoch, "epochs": 2, "step": step, "steps": 4})
    figures = {"loss": 0.5, "accuracy": 0.75, "val_loss": 0.25, "val_accuracy": 1.0}
    training.on_progress({"epoch": 2, "epochs": 2, **figures})
    assert [line.partition(" steps")[0] for line in lines[:5]] == [
        "statistics: 1 of 4",
        "statistics: 4 of 4",
        "train: 1 of 8",
        "train: 4 of 8",
        "train: 6 of 8",
    ]
    assert lines[5] == "epoch 2 of 2: loss 0.5000, accuracy 0.7500, val_loss 0.2500, val_accuracy 1.0000"


def test_the_time_of_a_step_is_taken_whatever_ends_it(clock):
    shown = Progress(lambda line: None)

    def interrupted():
        with shown.step("extract"):
            clock[0] += 7
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert shown.seconds == {"extract": 7.0}


def test_what_did_not_happen_is_not_told():
    counts = dict.fromkeys(("new", "changed", "moved", "relabelled", "removed", "unchanged", "ignored"), 0)
    assert changes(5, counts | {"unchanged": 4, "moved": 1}) == "5 images: 1 moved, 4 unchanged"
    assert changes(5, counts | {"new": 5, "ignored": 2}) == "5 images: 5 new; ignored 2 other files"


def test_a_head_is_told_of_with_its_figures_on_test_images_where_there_are_such():
    job = HeadJob(toy.space(Path("images"), Path("store")), 1, "a" * 32, HeadSpec(("cats", "dogs")), seed=0)
    head = HeadResult("a" * 32, True, True, 2, 0.75, 0.5, 1.0, 1.0)
    figures = f"mlp head {'a' * 32}: val_accuracy 0.7500, val_loss 0.5000"
    assert trained(job, head) == f"{figures}; it is current"
    tested = dataclasses.replace(head, test_accuracy=0.625, test_loss=0.25)
    assert trained(job, tested) == f"{figures}, test_accuracy 0.6250, test_loss 0.2500; it is current"


def test_it_is_told_where_the_report_lies_or_why_there_is_none():
    head = HeadResult("a" * 32, True, True, 2, 0.75, 0.5, 1.0, 1.0, report="store/heads/a/report.html")
    assert reported(head, Path("logs")) == "report: store/heads/a/report.html"
    assert reported(dataclasses.replace(head, report=None), Path("logs")).startswith("warning: the head has no report")


def test_a_time_is_told_in_the_unit_that_suits_it():
    assert [duration(s) for s in (0.4, 119, 121, 7100, 7300)] == ["0 s", "119 s", "2 min", "118 min", "2.0 h"]
