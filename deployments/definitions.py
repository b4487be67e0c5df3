"""The deployments as prefect.yaml defines them, and with parameters of one's own."""

from pathlib import Path
from typing import Any

import pydantic
import yaml

from flows.options.maintenance import MaintenanceOptions
from flows.options.pipeline import PipelineOptions
from flows.options.study import StudyOptions
from flows.options.watch import WatchOptions

PROJECT = Path(__file__).parents[1]
FILE = Path(__file__).with_name("prefect.yaml")
MAIN = "extract-and-train"
OPTIONS: dict[str, type[pydantic.BaseModel]] = {
    MAIN: PipelineOptions,
    "batch-size-study": StudyOptions,
    "watch-images": WatchOptions,
    "store-maintenance": MaintenanceOptions,
}


def read_definitions(path: Path = FILE) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def with_parameters(document: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The same deployments, on other images and another store.

    extract-and-train gets all of `given`, the others what says which images, classes and store are meant.
    """

    def changed(deployment: dict[str, Any]) -> dict[str, Any]:
        known = {name: given[name] for name in _taken(deployment["name"]) if name in given}
        return deployment | {"parameters": deployment.get("parameters", {}) | known}

    return document | {"deployments": [changed(deployment) for deployment in document["deployments"]]}


def _taken(deployment: str) -> list[str]:
    """The parameters that a deployment takes of those that are given for all."""
    fields = OPTIONS[deployment].model_fields
    return [name for name, field in fields.items() if deployment == MAIN or field.title == "input" or name == "out"]


def parameters_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each.get("parameters", {}) for each in document["deployments"] if each["name"] == name)
