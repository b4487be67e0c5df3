"""Set Prefect's environment and start it."""

import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module

from flows.console.exit_status import is_foreseen
from flows.console.loggers import PREFECT_LOGGERS
from flows.console.messages import say
from flows.preflight.start import Result
from flows.registry import FlowEntry
from storage.layout import Store
from storage.text import as_flags
from workers.errors import PoolClosed

ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    **PREFECT_LOGGERS,
}


# On a terminal the bars and our own lines are enough. Prefect's log goes to its server in any case.
WATCHED = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING"}


# What Prefect imports at the first flow run and task run: a quarter of a second, in which this process would only wait for
# its server.
FIRST_RUN = ("prefect.flow_engine", "prefect.task_engine", "prefect.utilities.visualization", "fastapi")


# The last line of an interrupted run reports the interrupt, so these messages add nothing.
NOISE = (PoolClosed.__name__, "was aborted by an interrupt signal", "was aborted by a termination signal")


def load_flow(flow: FlowEntry, store: Store) -> Callable[..., Result]:
    """Import a flow, and give this process a Prefect server: the configured one, or its own, which starts meanwhile."""
    set_environment()
    say("starting Prefect, which takes half a minute the first time")
    from flows.cli.prefect_server import start_server

    server = start_server(store)
    function = flow.load()
    if server is not None:
        for name in FIRST_RUN:
            import_module(name)
        server.wait()
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_for_terminal)
    return function


def set_environment() -> None:
    """Set the environment variables that Prefect reads at import, unless the user has set them."""
    for name, value in (ENVIRONMENT | (WATCHED if sys.stderr.isatty() else {})).items():
        os.environ.setdefault(name, value)


def _for_terminal(record: logging.LogRecord) -> bool:
    """Write parameters as flags. Drop the traceback of an expected error, and the messages that an interrupt causes."""
    record.msg, record.args = as_flags(record.getMessage()), None
    if record.exc_info and record.exc_info[1] and is_foreseen(record.exc_info[1]):
        record.exc_info = None
    return not any(noise in record.getMessage() for noise in NOISE)
