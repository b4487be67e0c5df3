"""What a preflight returns."""

from dataclasses import dataclass
from typing import Any, Protocol

import pydantic

from storage.layout import Store


class Result(Protocol):
    """What a command prints: the JSON record, key by key."""

    def line(self, elapsed_seconds: float) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Start:
    """There is work: the options of the flow run, and the store that has to be free for it; None if none has to."""

    options: pydantic.BaseModel
    store: Store | None = None
