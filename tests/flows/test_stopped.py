"""Runs that are interrupted, killed, or lose a child: real processes, real children, VGG16 at 32 pixels."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests import toy
from tests.flows.conftest import TINY
from tests.flows.in_process import finished
from tests.flows.started import (
    SLOWER,
    assert_same_features,
    children_of,
    features,
    names_of_shards,
    shards_in,
    start,
    trained_logs,
    wait_until,
)


@pytest.mark.slow
def test_a_run_killed_between_shards_goes_on_where_it_was(pipeline, environment, tmp_path):
    images, store = toy.pictures(tmp_path / "images", per_class=150), tmp_path / "store"
    arguments = ("--images", images, "--store", store, *SLOWER, "--extract-only")
    process = start(environment, *arguments)
    wait_until(lambda: shards_in(store) >= 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = shards_in(store)
    assert not list(store.glob("*/versions/*.json"))
    toy.picture(images / "cats" / "between.png", seed=5000)
    done = pipeline(*arguments)
    assert done.status == 0, done.stderr
    assert done.record["adopted"] >= 8 * (kept - 1)
    assert done.record["adopted"] + done.record["extracted"] == 301
    fresh = pipeline("--images", images, "--store", tmp_path / "fresh", *SLOWER, "--extract-only")
    assert_same_features(
        features(store, done.record["fingerprint"]), features(tmp_path / "fresh", fresh.record["fingerprint"])
    )


@pytest.mark.parametrize(
    "way", ["Ctrl-C in the terminal", pytest.param("SIGTERM to the process", marks=pytest.mark.slow)]
)
def test_an_interrupt_keeps_the_shards_stops_the_children_and_leaves_with_130(environment, tmp_path, way):
    images, store = toy.pictures(tmp_path / "images", per_class=150), tmp_path / "store"
    process = start(environment, "--images", images, "--store", store, *SLOWER)
    wait_until(lambda: shards_in(store) >= 2, process)
    children = children_of(process.pid)
    if way.startswith("Ctrl-C"):
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert children
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert shards_in(store) >= 2
    assert "interrupted" in stderr
    assert "Crash detected" not in stderr


def start_training(environment: dict[str, str], store: Path, *arguments: str | Path):
    """A run, and its children, of which one has trained a few epochs more than when the run began."""
    done = epochs_of(store)
    process = start(environment, *arguments)
    wait_until(lambda: epochs_of(store) > done + 5, process)
    children = children_of(process.pid)
    assert children
    return process, children


def epochs_of(store: Path) -> int:
    """How many epochs the trainings without a head have logged."""
    return sum(len(log.read_text().splitlines()) for log in trained_logs(store))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["the run is interrupted, then killed", "the child is killed"])
def test_a_training_that_is_stopped_goes_on_by_a_retry_or_the_next_run(pipeline, environment, again, way):
    """As if it had not been: the losses of all its steps are those of one that was left alone (tests/workers/jobs/test_resume.py)."""
    images, store = again
    arguments = ("--images", images, "--store", store, *TINY, "--epochs", "100", "--checkpoint-seconds", "0")
    before = set(store.glob("heads/*/head.json"))
    if way == "the child is killed":
        process, children = start_training(environment, store, *arguments)
        for child in children:
            os.kill(child, signal.SIGKILL)
        done = finished(process.wait(600), *process.communicate())
        assert "Retry 1/" in done.stderr
    else:
        for kind, status in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
            process, children = start_training(environment, store, *arguments)
            os.killpg(process.pid, kind)
            _, stderr = process.communicate(timeout=60)
            assert process.returncode == status, stderr
            if kind == signal.SIGINT:  # killed with the run, they are to be reaped by whoever reaps orphans
                assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
            assert set(store.glob("heads/*/head.json")) == before
        done = pipeline(*arguments)
    assert (done.status, done.record["extracted"], done.record["epochs"]) == (0, 0, 100), done.stderr
    assert "resuming the training in epoch " in done.stderr
    with open(store / "heads" / done.record["head"] / "logs" / "steps.csv") as file:
        assert [line.split(",")[0] for line in file][1:] == [str(epoch) for epoch in range(100)]


@pytest.mark.slow
def test_children_that_die_are_replaced_and_the_shards_are_those_of_one_process_alone(pipeline, environment, tmp_path):
    images, store, alone = toy.pictures(tmp_path / "images", per_class=200), tmp_path / "store", tmp_path / "alone"
    options = ("--images", images, *SLOWER, "--extract-only", "--engine", "mnn")
    process = start(environment, "--store", store, *options, "--workers", "2")
    wait_until(lambda: shards_in(store) >= 2, process)
    victims = children_of(process.pid)
    for victim in victims:
        os.kill(victim, signal.SIGSTOP)
    time.sleep(2)  # the stopped children receive work, which is in flight when they die
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    assert shards_in(store) < 50
    done = finished(process.wait(600), *process.communicate())
    assert done.status == 0, done.stderr
    assert (done.record["extracted"], done.record["pending"], done.record["version"]) == (400, 0, 1)
    assert any(f"child {victim} ended with status -9" in done.stderr for victim in victims)
    assert pipeline("--store", alone, *options).status == 0
    assert names_of_shards(store) == names_of_shards(alone)


@pytest.mark.slow
def test_a_training_that_meets_a_damaged_shard_ends_with_one_line_and_is_not_tried_again(command, again):
    images, store = again
    for path in store.glob("*/shards/*/*.parquet"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    done = command("--images", images, "--store", store, *TINY, "--force-retrain", "--no-standardize")
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert (done.status, "is damaged" in line, "python -m storage repair" in line) == (1, True, True)
    assert not any(noise in done.stderr for noise in ("Graph execution", "Traceback", "Retry", "retry"))
