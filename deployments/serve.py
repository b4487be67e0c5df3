"""Serve every deployment from one process, without a pool or worker: `python deployments/serve.py`.

This suits a laptop that already has a server. It serves the deployments of prefect.yaml, and pauses their schedules
when it ends.
"""

import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(sys.path[0])  # the project instead of this folder
    from deployments.settings import WORKER

    os.environ |= WORKER | os.environ  # runs inherit these; Prefect reads them at import

from typing import Any

import httpx
from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.flows import load_flow_from_entrypoint
from prefect.schedules import Cron

from deployments.definitions import PROJECT, read_definitions
from flows.cli.command import describe
from flows.cli.prefect_server import check_configured
from flows.console.exit_status import exit_status
from flows.console.messages import say
from storage.errors import InputError


def served(definition: dict[str, Any]) -> RunnerDeployment:
    """A deployment as prefect.yaml defines it. The process that serves it also runs it."""
    flow = load_flow_from_entrypoint(definition["entrypoint"])
    return flow.to_deployment(
        definition["name"],
        description=definition["description"],
        tags=definition["tags"],
        parameters=definition.get("parameters", {}),
        concurrency_limit=ConcurrencyLimitConfig.model_validate(definition["concurrency_limit"]),
        schedules=[Cron(each["cron"], timezone=each["timezone"]) for each in definition.get("schedules", [])],
        triggers=[DeploymentEventTrigger.model_validate(each) for each in definition.get("triggers", [])],
    )


def main() -> None:
    """Serve the deployments until interrupted. Raises InputError if no server is configured."""
    check_configured("the deployments need a Prefect server that keeps running")
    os.chdir(PROJECT)  # entrypoints and relative folders start here
    serve(*[served(definition) for definition in read_definitions()["deployments"]])


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError, httpx.ConnectError) as error:
        say(f"error: {describe(error)}")
        raise SystemExit(exit_status(error)) from None
