"""A Prefect plugin: `prefect deployment run extract-and-train` finds `extract-and-train/extract-and-train`.

Prefect expects `flow/deployment`. No two deployments of prefect.yaml have the same name, so one name is enough. The
plugin replaces a method of a private module that looks deployments up. It therefore works with the pinned version, and
leaves any Prefect without that method unchanged.
"""

from functools import wraps
from typing import Any

from prefect.plugins import HookContext, register_hook


def full_name(name: str) -> str:
    """`flow/deployment`, from the name of a deployment of prefect.yaml. Any other single name stands for both."""
    if "/" in name:
        return name
    from deployments.definitions import flows_of, read_definitions  # the commands that name no deployment save the time

    flow = flows_of(read_definitions()).get(name)
    return f"{flow.name if flow else name}/{name}"


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Let Prefect's client look deployments up by a single name. Logs a warning if this Prefect lacks the method."""
    try:
        from prefect.client.orchestration._deployments.client import DeploymentAsyncClient

        stock = DeploymentAsyncClient.read_deployment_by_name
    except (ImportError, AttributeError) as error:
        ctx.logger_factory("extract-and-train").warning(
            f"short names do not work with Prefect {ctx.prefect_version} ({error}): "
            "use `prefect deployment run extract-and-train/extract-and-train`"
        )
        return
    if not hasattr(stock, "__wrapped__"):

        @wraps(stock)
        async def read_deployment_by_name(self: Any, name: str) -> Any:
            return await stock(self, full_name(name))

        DeploymentAsyncClient.read_deployment_by_name = read_deployment_by_name  # type: ignore[method-assign]
