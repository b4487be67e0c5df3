"""Check the parameters and roots of an installation's deployments in the same way as their runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from deployments.definitions import MAIN, flows_of, parameters_of, read_definitions, with_parameters
from flows.options.flat import checked
from flows.options.pipeline import PipelineOptions
from flows.options.roots import IMAGE_ROOTS, STORE_ROOTS, WEIGHTS_ROOTS, joined
from flows.options.watch import WatchOptions
from storage.classes import check_found
from storage.errors import InputError


def prepare(home: Path, parameters: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the deployments with these parameters, and the environment variables that confine their runs.

    Raises InputError if those runs would refuse the parameters.
    """
    given = {"out": str(home / "batch-size-study"), **parameters}
    document, confining = with_parameters(read_definitions(), given), chosen_roots(home, given)
    check_parameters(document, confining)
    return document, confining


def chosen_roots(home: Path, parameters: dict[str, Any]) -> dict[str, str]:
    """The roots of the runs: the folders that these parameters name, unless the environment sets other roots.

    With --outside-links, links may lead anywhere, so runs may read images from any folder.
    """

    def beside(name: str) -> list[str]:
        value = parameters.get(name)
        return [value.rpartition("/")[0] or "/"] if value and "/" in value else []

    anywhere = ["/"] if parameters.get("outside_links") else []
    found = {
        IMAGE_ROOTS: [parameters["images"], *beside("labels"), *anywhere],
        STORE_ROOTS: [parameters["store"], parameters["out"]],
        WEIGHTS_ROOTS: [str(home / "weights"), *beside("weights")],
    }
    set_already = {name: os.environ[name] for name in found if os.environ.get(name)}
    if STORE_ROOTS in set_already:  # the installation adds its own folder for study reports
        set_already[STORE_ROOTS] += f":{joined([parameters['out']])}"
    return {name: joined(places) for name, places in found.items()} | set_already


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
                scan, classes = options.look(), checked(PipelineOptions, parameters_of(document, MAIN)).classes
                if classes is not None:
                    check_found(classes, pc.unique(scan.files["class"]).to_pylist())


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
