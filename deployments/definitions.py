"""The deployments of prefect.yaml, with the parameters of an installation."""

import shlex
from pathlib import Path
from typing import Any

import yaml

from flows.registry import EVALUATE, FLOWS, HEAD_STUDY, INSPECT, PIPELINE, PREDICT, STUDY, FlowEntry

PROJECT = Path(__file__).parents[1]
FILE = Path(__file__).with_name("prefect.yaml")
MAIN = PIPELINE.name
OWN = {
    STUDY.name: {"out": "out"},
    HEAD_STUDY.name: {"out": "head_study"},
    PREDICT.name: {"images": "inbox", "out": "predictions"},
    EVALUATE.name: {"out": "evaluation"},
    INSPECT.name: {"out": "inspection"},
}
ENTRYPOINTS = {flow.entrypoint: flow for flow in FLOWS.values()}


def read_definitions(path: Path = FILE) -> dict[str, Any]:
    """The content of prefect.yaml."""
    return yaml.safe_load(path.read_text())


def flows_of(document: dict[str, Any]) -> dict[str, FlowEntry]:
    """The flow of each deployment, by the deployment's name. A flow may have several deployments."""
    return {each["name"]: ENTRYPOINTS[each["entrypoint"]] for each in document["deployments"]}


def with_parameters(document: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The same deployments, with the parameters `given`.

    A deployment of the pipeline takes all of them. Each other deployment takes those that name its input (images,
    classes, store), a study, an evaluation and an inspection their output folders, and a prediction `inbox` and `predictions`.
    """
    flows = flows_of(document)

    def changed(deployment: dict[str, Any]) -> dict[str, Any]:
        taken = _taken(flows[deployment["name"]])
        known = {own: given[name] for own, name in taken.items() if name in given}
        return deployment | {"parameters": deployment.get("parameters", {}) | known}

    return document | {"deployments": [changed(deployment) for deployment in document["deployments"]]}


def with_triggers(document: dict[str, Any], images: str, inbox: str | None) -> dict[str, Any]:
    """The same deployments, each started by the arrivals of its own folder alone.

    inbox: images to predict, which somebody watches; None if nobody does.
    """
    (main,) = [each for each in document["deployments"] if each["name"] == MAIN]
    folders = {MAIN: images} | ({PREDICT.name: inbox} if inbox else {})

    def changed(deployment: dict[str, Any]) -> dict[str, Any]:
        folder = folders.get(deployment["name"])
        if folder is None:
            return deployment
        name = deployment["name"]
        own = {"name": f"{name}-arrived", "description": f"Run {name} when new images are complete in {folder}."}
        triggers = [each | own | {"match": {"prefect.resource.id": f"images:{folder}"}} for each in main["triggers"]]
        return deployment | {"triggers": triggers, "schedules": main["schedules"]}

    return document | {"deployments": [changed(deployment) for deployment in document["deployments"]]}


def with_python(document: dict[str, Any], python: str) -> dict[str, Any]:
    """The same deployments, whose runs a worker of this machine starts with this Python.

    Without a command, Prefect's worker starts a first Python process that prepares a working folder, and then the run:
    two imports of Prefect, one after the other. These deployments need no preparation.
    """
    command = shlex.join([python, "-m", "prefect.engine"])

    def changed(pool: dict[str, Any]) -> dict[str, Any]:
        return pool | {"job_variables": pool.get("job_variables", {}) | {"command": command}}

    deployments = [each | {"work_pool": changed(each["work_pool"])} for each in document["deployments"]]
    return document | {"deployments": deployments}


def _taken(flow: FlowEntry) -> dict[str, str]:
    """The parameters of this flow that an installation sets → the names of the given parameters that it sets them to."""
    fields = flow.options.model_fields
    taken = {name: name for name, field in fields.items() if flow is PIPELINE or field.title == "input"}
    return taken | OWN.get(flow.name, {})


def parameters_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    """The parameters of the deployment `name`."""
    return next(each.get("parameters", {}) for each in document["deployments"] if each["name"] == name)
