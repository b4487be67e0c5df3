"""The pins: an unpinned Prefect beside TensorFlow has a server that does not start, and schedules that do nothing."""

import asyncio
import re
import time
import tomllib
from datetime import timedelta
from importlib.metadata import requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.schedules import IntervalSchedule

from tests.flows.conftest import PROJECT
from tests.flows.in_process import server_of


@flow
def tick():
    pass


async def scheduled_runs() -> int:
    """How many runs a full server creates for a deployment with a schedule."""
    async with get_client() as client:
        schedule = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(hours=1)), active=True)
        deployment = await client.create_deployment(await client.create_flow(tick), "tick", schedules=[schedule])
        where = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
        deadline = time.monotonic() + 90
        while not (runs := await client.read_flow_runs(deployment_filter=where)) and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        await client.delete_deployment(deployment)
        return len(runs)


def declared() -> list[Requirement]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["test"]]


def constraints() -> dict[str, str]:
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_a_schedule_creates_a_run_on_a_full_server(environment):
    with server_of(environment):
        assert asyncio.run(scheduled_runs()) > 0


def test_the_known_bad_neighbours_are_out_of_bounds():
    bounds = {requirement.name: requirement.specifier for requirement in declared()}
    assert "0.151.0" not in bounds["fastapi"]
    assert "2.1.0" not in bounds["sqlalchemy"]
    assert "3.9.1" not in bounds["prefect"]


def test_what_is_installed_is_within_the_bounds():
    for requirement in declared():
        assert version(requirement.name) in requirement.specifier, requirement


def test_every_constraint_is_an_exact_version_within_the_bounds_and_has_no_address():
    text = (PROJECT / "constraints.txt").read_text()
    assert "://" not in text
    assert "file:" not in text
    assert all(re.fullmatch(r"#.*|[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+|", line) for line in text.splitlines())
    exact = {canonicalize_name(name): number for name, number in constraints().items()}
    for requirement in declared():
        if requirement.name == "extract-and-train":
            continue  # an extra that takes in another one
        assert exact[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_constraints_name_everything_that_is_needed():
    exact = {canonicalize_name(name) for name in constraints()}
    todo, seen = ["extract-and-train"], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(canonicalize_name(requirement.name))
    assert seen - {"extract-and-train"} <= exact
