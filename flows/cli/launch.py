"""Set Prefect's environment and start it."""

import logging
import os
import sys

from flows.console.exit_status import is_foreseen
from flows.console.loggers import PREFECT_LOGGERS
from flows.console.messages import say
from storage.layout import Store
from workers.runners.base import PoolClosed

ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    **PREFECT_LOGGERS,
}


# Before a person the bars and our own lines are enough; Prefect's log goes to its server in any case.
WATCHED = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING"}


# Of a run that was interrupted the last line tells.
NOISE = (PoolClosed.__name__, "was aborted by an interrupt signal", "was aborted by a termination signal")


def start_prefect(store: Store) -> None:
    """Let this process have a Prefect server, and keep what is foreseen off the terminal. Flows are imported after it."""
    set_environment()
    say("starting Prefect, which takes half a minute the first time")
    from flows.cli.prefect_server import start_server

    start_server(store.cache / "logs" / "server.log")
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_noise)


def set_environment() -> None:
    """What Prefect reads of the environment when it is imported, where the user has not said otherwise."""
    for name, value in (ENVIRONMENT | (WATCHED if sys.stderr.isatty() else {})).items():
        os.environ.setdefault(name, value)


def _without_noise(record: logging.LogRecord) -> bool:
    """Foreseen errors need no traceback on the terminal, and what an end cut off no line; the rest stays."""
    if record.exc_info and record.exc_info[1] and is_foreseen(record.exc_info[1]):
        record.exc_info = None
    return not any(noise in record.getMessage() for noise in NOISE)
