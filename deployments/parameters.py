"""Check the parameters and roots of an installation's deployments in the same way as their runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from deployments.definitions import (
    MAIN,
    flows_of,
    parameters_of,
    read_definitions,
    with_parameters,
    with_triggers,
)
from flows.options.flat import checked
from flows.options.pipeline import PipelineOptions
from flows.options.predict import PredictOptions
from flows.options.roots import IMAGE_ROOTS, STORE_ROOTS, WEIGHTS_ROOTS, is_below, joined
from flows.options.watch import WatchOptions
from flows.registry import PREDICT
from storage.classes import check_found
from storage.errors import InputError


def prepare(home: Path, parameters: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the deployments with these parameters, and the environment variables that confine their runs.

    Raises InputError if those runs would refuse the parameters.
    """
    given = own_places(home) | parameters
    document = with_triggers(with_parameters(read_definitions(), given), given["images"], parameters.get("inbox"))
    confining = chosen_roots(home, parameters)
    check_parameters(document, confining)
    if "inbox" in parameters:
        _check_inbox(document)
    return document, confining


def own_places(home: Path) -> dict[str, str]:
    """The default folders of an installation for reports, images to predict, and their predictions."""
    names = {"out": "batch-size-study", "head_study": "head-study"}
    names |= {
        "inbox": "inbox",
        "predictions": "predictions.csv",
        "evaluation": "evaluation",
        "inspection": "inspection",
    }
    return {name: str(home / file) for name, file in names.items()}


def chosen_roots(home: Path, parameters: dict[str, Any]) -> dict[str, str]:
    """The roots of the runs: the folders that these parameters name, unless the environment sets other roots.

    With --outside-links, links may lead anywhere, so runs may read images from any folder.
    """

    def beside(name: str) -> list[str]:
        value = parameters.get(name)
        return [value.rpartition("/")[0] or "/"] if value and "/" in value else []

    def named(*names: str) -> list[str]:
        return [parameters[name] for name in names if name in parameters]

    own = own_places(home)
    anywhere = ["/"] if parameters.get("outside_links") else []
    found = {
        IMAGE_ROOTS: [*named("images", "inbox"), *beside("labels"), *anywhere],
        STORE_ROOTS: [*named("store", "predictions"), *beside("exclude"), *beside("relabel")],
        WEIGHTS_ROOTS: [str(home / "weights"), *beside("weights")],
    }
    always = {
        IMAGE_ROOTS: [own["inbox"]],
        STORE_ROOTS: [own["out"], own["head_study"], own["predictions"], own["evaluation"], own["inspection"]],
        WEIGHTS_ROOTS: [],
    }
    values = {name: os.environ.get(name) or joined(places) for name, places in found.items()}
    return {name: ":".join([value, *(joined([place]) for place in always[name])]) for name, value in values.items()}


def check_parameters(document: dict[str, Any], environment: dict[str, str]) -> None:
    """Raise InputError for parameters that runs in this environment would refuse before they list or extract anything.

    This check lists the images once, as the watcher does when it starts.
    """
    with _variables(environment):
        for name, flow in flows_of(document).items():
            parameters = parameters_of(document, name)
            _check_placeholders(parameters)
            options = checked(flow.options, parameters)
            if isinstance(options, PipelineOptions) and options.images is not None:
                options.space()  # refuses a store among the images, or missing weights
            if isinstance(options, WatchOptions):
                scan, classes = options.scan(), checked(PipelineOptions, parameters_of(document, MAIN)).classes
                if classes is not None:
                    check_found(classes, pc.unique(scan.files["class"]).to_pylist())


def _check_inbox(document: dict[str, Any]) -> None:
    """Raise InputError if the inbox cannot be predicted, or an image of it would be one of the image folder too."""
    options = checked(PredictOptions, parameters_of(document, PREDICT.name))
    options.check_places()
    images, inbox = parameters_of(document, MAIN)["images"], options.images or ""
    if is_below(inbox, images) or is_below(images, inbox):
        raise InputError(f"--inbox: {inbox} and the image folder {images} share images; name a folder beside it")


def _check_placeholders(parameters: dict[str, Any]) -> None:
    for name, value in parameters.items():
        if any("{{" in str(text) for text in (value if isinstance(value, list | tuple) else [value])):
            raise InputError(
                f"--{name.replace('_', '-')}: {value} contains {{{{, which starts a placeholder in Prefect's deployments; "
                "rename it, or use a link to it"
            )


@contextmanager
def _variables(environment: dict[str, str]) -> Iterator[None]:
    """Set these environment variables within the block."""
    before = dict(os.environ)
    os.environ |= environment
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
