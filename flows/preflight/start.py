"""What a preflight returns, and the preflight of a flow without its own."""

from dataclasses import dataclass
from typing import Any, Protocol

import pydantic

from storage.layout import Store
from workers.runners.warm_up import WarmUp


class Result(Protocol):
    """What a command prints: `line` returns the JSON record."""

    def line(self, elapsed_seconds: float) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Start:
    """There is work to do. options: of the flow run; store: must be free for it, None if no store must be.

    children: those that the flow needs first, which load while Prefect starts.
    """

    options: pydantic.BaseModel
    store: Store | None = None
    children: tuple[WarmUp, ...] = ()


class Checked(Protocol):
    """Options that can check more than their values: `check` raises InputError if the run cannot work.

    It returns the store that must be free for the run, None if no store must be.
    """

    def check(self) -> Store | None: ...


def check_options(options: Any) -> Start:
    """The preflight of a flow without its own: there is always work to do, if the options are Checked and pass."""
    return Start(options, options.check())
