"""prefect.yaml, and what is made of it: each deployment is one of a flow that is there, with parameters that it takes."""

import shlex

import pytest
import yaml
from prefect.events import DeploymentEventTrigger
from prefect.flows import load_flow_from_entrypoint

from deployments.definitions import (
    MAIN,
    PROJECT,
    flows_of,
    parameters_of,
    read_definitions,
    with_parameters,
    with_python,
)
from deployments.parameters import prepare
from deployments.plugin import full_name
from deployments.serve import served
from deployments.settings import POOL, WORKER
from flows.console.loggers import PREFECT_LOGGERS
from flows.options.pipeline import PipelineOptions
from flows.registry import FLOWS
from tasks.announce_images import EVENT, resource_id
from tests import toy

DEFINITIONS = read_definitions()["deployments"]


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(PROJECT)


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda each: each["name"])
def test_a_deployment_is_of_a_flow_of_the_table_and_takes_its_parameters(definition):
    entry = flows_of(read_definitions())[definition["name"]]
    flow = load_flow_from_entrypoint(definition["entrypoint"])
    assert flow.name == entry.name
    assert full_name(definition["name"]) == f"{flow.name}/{definition['name']}"
    flow.validate_parameters(definition["parameters"])
    entry.options(**definition["parameters"])
    assert definition["work_pool"]["name"] == POOL
    assert definition["concurrency_limit"]["limit"] == 1


def test_a_run_that_prefect_deploys_has_the_settings_of_a_worker():
    for definition in DEFINITIONS:
        given = definition["work_pool"]["job_variables"]["env"]
        assert given.items() <= WORKER.items()
        assert given.items() >= PREFECT_LOGGERS.items()


def test_a_run_of_an_installation_is_started_by_its_own_python_and_keeps_its_settings():
    """Also by one whose path holds a space."""
    before = read_definitions()
    after = with_python(before, "/my envs/bin/python")
    for old, new in zip(before["deployments"], after["deployments"], strict=True):
        given = new["work_pool"]["job_variables"]
        assert shlex.split(given.pop("command")) == ["/my envs/bin/python", "-m", "prefect.engine"]
        assert given == old["work_pool"]["job_variables"]
    assert before == read_definitions()


def test_every_flow_has_a_deployment_of_its_name():
    """`prefect deployment run NAME` and `up` find it so."""
    names = [each["name"] for each in DEFINITIONS]
    assert len(set(names)) == len(names)
    assert {name: flow for name, flow in flows_of(read_definitions()).items() if name in FLOWS} == FLOWS


@pytest.fixture
def nightly(monkeypatch, tmp_path):
    """prefect.yaml with one entry more: a second deployment of the pipeline."""
    document = read_definitions()
    (first,) = [each for each in document["deployments"] if each["name"] == MAIN]
    document["deployments"].append(first | {"name": "nightly", "parameters": {"epochs": 9}})
    file = tmp_path / "prefect.yaml"
    file.write_text(yaml.safe_dump(document))
    monkeypatch.setattr(read_definitions, "__defaults__", (file,))


def test_a_second_deployment_of_a_flow_is_one_entry_in_one_file(nightly, tmp_path):
    images = toy.pictures(tmp_path / "images", per_class=1)
    given = {"images": str(images), "store": str(tmp_path / "store"), "weights": "random", "image_size": 64}
    document, _ = prepare(tmp_path / "home", given)
    assert parameters_of(document, "nightly") == {"epochs": 9} | given
    assert full_name("nightly") == f"{MAIN}/nightly"
    assert full_name("no-such-thing") == "no-such-thing/no-such-thing"


def test_the_trigger_hears_what_the_watcher_says():
    (main,) = [each for each in DEFINITIONS if each["name"] == MAIN]
    (trigger,) = [DeploymentEventTrigger.model_validate(each) for each in main["triggers"]]
    assert trigger.expect == {EVENT}
    assert trigger.enabled
    assert trigger.match.matches({"prefect.resource.id": resource_id("/data/photos")})
    assert not trigger.match.matches({"prefect.resource.id": "prefect.flow-run.1"})
    assert not trigger.parameters  # what is new is found by looking, never believed of an event


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda each: each["name"])
def test_what_is_served_is_what_is_deployed(definition):
    deployment = served(definition)
    assert deployment.parameters == definition["parameters"]
    assert sorted(deployment.tags) == sorted(definition["tags"])
    assert deployment.concurrency_limit == 1
    assert not deployment.job_variables  # which Prefect refuses where there is no pool
    assert deployment.concurrency_options.collision_strategy == definition["concurrency_limit"]["collision_strategy"]
    assert [each.schedule.cron for each in deployment.schedules] == [
        each["cron"] for each in definition.get("schedules", [])
    ]
    assert [each.expect for each in deployment.triggers] == [
        set(each["expect"]) for each in definition.get("triggers", [])
    ]


def test_ones_own_parameters_reach_every_deployment_that_takes_them():
    own = {"images": "/data/photos", "store": "/data/store", "weights": "random", "epochs": 3}
    places = {"out": "/data/study", "inbox": "/data/inbox", "predictions": "/data/p.csv", "evaluation": "/data/e"}
    own |= {"head": "linear"}  # a kind of head for the pipeline, and a name for a prediction
    document = with_parameters(read_definitions(), own | places)
    for name, flow in FLOWS.items():
        parameters = parameters_of(document, name)
        flow.options(**parameters)
        assert parameters["store"] == "/data/store"
    assert {name: parameters_of(document, MAIN)[name] for name in own} == own
    predicting = {"store": "/data/store", "weights": "random", "images": "/data/inbox", "out": "/data/p.csv"}
    assert parameters_of(document, "predict") == predicting | {"append": True}
    evaluating = {"store": "/data/store", "weights": "random", "split": "validation", "out": "/data/e"}
    assert parameters_of(document, "evaluate") == evaluating
    assert parameters_of(document, "watch-images")["images"] == "/data/photos"
    assert parameters_of(document, "batch-size-study")["out"] == "/data/study"
    assert "epochs" not in parameters_of(document, "batch-size-study")


def test_other_images_are_never_extracted_with_the_weights_of_the_demo():
    given = parameters_of(read_definitions(), MAIN) | {"images": "/data/photos"}
    assert PipelineOptions(**given).weights == "imagenet"


def test_no_secret_lies_among_the_deployments():
    for path in (PROJECT / "deployments").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            text = path.read_text()
            for line in text.splitlines():
                name, mark, value = line.strip().partition("=" if path.suffix == ".service" else ":")
                if mark and "AUTH_STRING" in name and not name.lstrip().startswith("#"):
                    assert value.strip().startswith(("${", "password")), f"{path.name}: {line}"
