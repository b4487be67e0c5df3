"""A command of the project in the process of the tests: Prefect and TensorFlow are imported once for all of them."""

import io
import json
import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

ROOMS = ("storage", "vision", "workers", "tasks")


@dataclass(frozen=True)
class Done:
    """What a finished command left: its exit status, its JSON record, and what it said."""

    status: int
    record: dict | None
    stdout: str
    stderr: str


def finished(status: int, stdout: str, stderr: str) -> Done:
    lines = stdout.strip().splitlines()
    return Done(status, json.loads(lines[-1]) if lines else None, stdout, stderr)


def call(main: Callable[[list[str]], int], environment: dict[str, str], *arguments: object) -> Done:
    """Run a command's `main` with the Prefect server that the environment names."""
    out, err = io.StringIO(), io.StringIO()
    with server_of(environment), _as_a_process(err), redirect_stdout(out), redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return finished(status, out.getvalue(), err.getvalue())


@contextmanager
def server_of(environment: dict[str, str]) -> Iterator[None]:
    """Let Prefect in this process use the server and the home of an environment."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_HOME,
        temporary_settings,
    )

    names = "PREFECT_API_URL", "PREFECT_HOME"
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setenv(name, environment[name])
        settings = {
            PREFECT_API_URL: environment["PREFECT_API_URL"],
            PREFECT_HOME: environment["PREFECT_HOME"],
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,  # each run would wait a second for the end of its heartbeats
        }
        with temporary_settings(settings):
            yield


@contextmanager
def _as_a_process(stream: io.StringIO) -> Iterator[None]:
    """Let loggers write to the stream what they write to standard error, and leave handlers of logs and signals as found.

    Warnings are no errors in a command: Keras and Prefect warn. The tests of the rooms look at them.
    """
    root = logging.getLogger()
    changed = [root, *map(logging.getLogger, ROOMS)]
    before = [(logger, logger.level, logger.handlers) for logger in changed]
    interrupt = signal.getsignal(signal.SIGTERM)
    handler = logging.StreamHandler(stream)
    handler.addFilter(lambda record: record.name.partition(".")[0] not in ROOMS)  # these have handlers of the command
    root.handlers = [handler]
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        signal.signal(signal.SIGTERM, interrupt)
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers = handlers
