"""A large first run measures its engines in a child; whatever happens to that child, the run has an engine."""

import pytest

from flows.steps import engine_choice
from flows.steps.engine_choice import settle_engine
from storage.manifest.space import create_space
from tests import toy
from vision.engines.selection import candidates
from workers.errors import WorkerDied
from workers.jobs.spaces import plan_record


@pytest.fixture
def plan(images, store, monkeypatch):
    space = toy.space(images, store)
    create_space(space.store, toy.SPEC.record())
    monkeypatch.setattr("vision.engines.rates.is_worth_measuring", lambda spec, pictures: True)
    return plan_record(space, toy.plan(images, store), "")


@pytest.mark.parametrize("error", [WorkerDied("killed"), OSError(12, "no memory")])
def test_a_measurement_that_fails_leaves_the_order_of_the_table(plan, monkeypatch, error):
    def failing(plan):
        raise error

    said: list[str] = []
    monkeypatch.setattr(engine_choice, "_measured", failing)
    assert settle_engine("auto", plan, "local", said.append) == candidates(plan.space.spec)[0]
    assert said[-1].startswith("warning: the engines could not be measured: ")


def test_the_fastest_is_taken_and_the_rates_are_said(plan, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(engine_choice, "_measured", lambda plan: {"mnn": 7.54, "tensorflow": 9.0})
    assert settle_engine("auto", plan, "local", said.append) == "tensorflow"
    assert said[-1] == "images/s per core: mnn 7.5, tensorflow 9.0"


@pytest.mark.parametrize(("name", "runner"), [("mnn", "local"), ("tensorflow", "local"), ("auto", "inline")])
def test_nothing_is_measured_where_an_engine_is_named_or_jobs_run_in_this_process(plan, monkeypatch, name, runner):
    monkeypatch.setattr(engine_choice, "_measured", lambda plan: pytest.fail("measured"))
    assert settle_engine(name, plan, runner, lambda line: None) == (name if name != "auto" else "mnn")


@pytest.mark.slow
def test_a_child_measures_every_candidate(tmp_path, monkeypatch):
    from pathlib import Path

    from storage.backend.paths import place
    from vision.specs import FeatureSpec
    from workers.jobs.spaces import find_space

    monkeypatch.setattr("vision.engines.rates.is_worth_measuring", lambda spec, pictures: True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    images = toy.pictures(tmp_path / "images")
    space = find_space(place(str(tmp_path / "store")), place(str(images)), FeatureSpec("", image_size=32), "random")
    plan = plan_record(space, toy.plan(images, Path(space.root)), "")
    said: list[str] = []
    settle_engine("auto", plan, "local", said.append)
    assert all(name in said[-1] for name in candidates(space.spec))
