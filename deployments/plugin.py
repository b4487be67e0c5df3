"""A Prefect plugin: `prefect deployment run extract-and-train` finds `extract-and-train/extract-and-train`.

Prefect asks for `flow/deployment`; every deployment here bears its flow's name, so one of the two is enough. The
method that looks a deployment up belongs to a private module, so the plugin holds for the pinned version and
otherwise leaves Prefect as it is.
"""

from functools import wraps
from typing import Any

from prefect.plugins import HookContext, register_hook


def full_name(name: str) -> str:
    """`flow/deployment`, where a name alone stands for both."""
    return name if "/" in name else f"{name}/{name}"


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Let Prefect's client look deployments up by one name."""
    try:
        from prefect.client.orchestration._deployments.client import DeploymentAsyncClient

        stock = DeploymentAsyncClient.read_deployment_by_name
    except (ImportError, AttributeError) as error:
        ctx.logger_factory("extract-and-train").warning(
            f"Prefect {ctx.prefect_version} looks deployments up in another way ({error}): "
            "`prefect deployment run extract-and-train/extract-and-train` works, the short form does not"
        )
        return
    if not hasattr(stock, "__wrapped__"):

        @wraps(stock)
        async def read_deployment_by_name(self: Any, name: str) -> Any:
            return await stock(self, full_name(name))

        DeploymentAsyncClient.read_deployment_by_name = read_deployment_by_name  # type: ignore[method-assign]
