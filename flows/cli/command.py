"""The command line: flags to options, nothing-to-do found out at once, errors in one line, one JSON record.

Imports no Prefect and no TensorFlow until there is something to do.
"""

import json
import logging
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from flows.cli.pipeline import parse, run
from flows.console.exit_status import FORESEEN, exit_status
from flows.console.messages import say
from flows.console.outcome import Outcome
from storage.finite import finite
from storage.text import visible


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return finish(lambda given, began: run(*parse(given), began), arguments)


def finish(work: Callable[[list[str], float], dict[str, Any]], arguments: list[str] | None = None) -> int:
    """Do the work of a command, print its JSON record, tell errors in one line, and return the exit status.

    work: takes the arguments and when the command began (time.monotonic), and returns the record.
    """
    began = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    _log_to_stderr()
    record: dict[str, Any] | None = None
    status = 0
    try:
        record = work(sys.argv[1:] if arguments is None else arguments, began)
    except (Exception, KeyboardInterrupt) as error:
        outcome: Outcome | None = getattr(error, "outcome", None)
        record = outcome.line(time.monotonic() - began) if outcome else None
        status = exit_status(error)
        if not isinstance(error, (*FORESEEN, KeyboardInterrupt)) and "prefect" not in sys.modules:
            traceback.print_exc()  # inside a flow Prefect does it
        say(f"error: {describe(error)}")
    if record is not None:
        print(json.dumps(finite(record), allow_nan=False), flush=True)
    return status


def _interrupt(signal_number, frame):
    """Whoever ends this process politely gets the end that Ctrl-C gives: no child and no server stays behind."""
    raise KeyboardInterrupt


class _ToStderr(logging.Handler):
    """Lines to whatever standard error is when they come: with bars on it, they pass above them."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def _log_to_stderr() -> None:
    """What the rooms log is told in plain lines."""
    for room in ("storage", "vision", "workers", "tasks"):
        logging.getLogger(room).setLevel(logging.INFO)
        logging.getLogger(room).handlers = [_ToStderr()]


def describe(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted; finished shards are kept, and the next run goes on from them"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}; what was finished is kept"
    if _is_unreached(error):
        from flows.cli.prefect_server import unreached

        return unreached()
    if str(error).startswith("Client error '401 Unauthorized'"):
        from flows.cli.prefect_server import shut_out

        return shut_out()
    return visible(" ".join(str(error).split())) or type(error).__name__


def _is_unreached(error: BaseException) -> bool:
    """Whether Prefect's client found nobody; httpx is not imported to know that."""
    return str(error).startswith("Failed to reach API") or type(error).__name__ in ("ConnectError", "ConnectTimeout")
