"""What a preflight returns."""

from dataclasses import dataclass
from typing import Any, Protocol

import pydantic

from storage.layout import Store


class Result(Protocol):
    """What a command prints: `line` returns the JSON record."""

    def line(self, elapsed_seconds: float) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Start:
    """There is work to do. options: of the flow run; store: must be free for it, None if no store must be."""

    options: pydantic.BaseModel
    store: Store | None = None
