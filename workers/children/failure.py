"""The error of a job as JSON: the child that ran the job writes it, and its parent raises the error again."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from workers.errors import CERTAIN, EXPECTED, WorkerFailed

LONGEST_MESSAGE = 300  # characters; TensorFlow and Keras put graphs and configurations into their messages


@dataclass(frozen=True)
class Failure:
    """An error. kinds: the names of its type and of the base classes, in Python's order of resolution.

    errno, strerror, filename: those of an OSError; None if they are missing or of another type. A file name may be bytes
    or a descriptor, and Arrow puts it into the message instead.
    """

    kinds: list[str]
    message: str
    errno: int | None = None
    strerror: str | None = None
    filename: str | None = None

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """The failure of an error that a job raised."""
        number, text = getattr(error, "errno", None), getattr(error, "strerror", None)
        name = getattr(error, "filename", None)
        return cls(
            kinds=[kind.__name__ for kind in type(error).__mro__],
            message=str(error),
            errno=number if isinstance(number, int) else None,
            strerror=text if isinstance(text, str) else None,
            filename=os.fsdecode(name) if isinstance(name, str | bytes) else None,
        )

    def record(self) -> dict[str, Any]:
        """The failure as JSON. `Failure(**record)` reverses it."""
        return asdict(self)

    def exception(self, log: Path) -> Exception:
        """The error to raise in the parent: EXPECTED errors and OSErrors keep their type, others become WorkerFailed.

        log: the log of the child, which has the traceback.
        """
        expected = next((EXPECTED[kind] for kind in self.kinds if kind in EXPECTED), None)
        if expected is not None:
            return expected(self.message)
        if self.errno is not None:
            return OSError(self.errno, _short(self.strerror or os.strerror(self.errno)), self.filename)
        is_certain = not {kind.__name__ for kind in CERTAIN}.isdisjoint(self.kinds)
        return WorkerFailed(f"{_short(f'{self.kinds[0]}: {self.message}')}; see {log}", can_help=not is_certain)


def _short(text: str) -> str:
    return shorten(text, LONGEST_MESSAGE, placeholder=" …")
