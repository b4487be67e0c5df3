"""The command line that all flows share: flags to options, preflight, flow run, one JSON record, one-line errors.

It imports Prefect, TensorFlow and the flow only once there is something to do.
"""

import json
import logging
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from flows.cli.launch import load_flow, set_environment
from flows.cli.parser import options_parser, read_options
from flows.cli.prefect_server import check_configured, shut_out, unreached
from flows.console.exit_status import exit_status, is_foreseen
from flows.console.loggers import LOGGERS
from flows.console.messages import say
from flows.console.outcome import Outcome
from flows.preflight.start import Result, Start
from flows.registry import FlowEntry
from storage.backend.lock import hold
from storage.finite import finite
from storage.text import one_line


def main(flow: FlowEntry, arguments: list[str] | None = None) -> int:
    """Run the command of a flow and return its exit status."""
    return finish(lambda given, began: run(flow, given, began), arguments)


def run(flow: FlowEntry, arguments: list[str], began: float) -> dict[str, Any]:
    """Run the preflight, then the flow if there is work, and return the JSON record."""
    options, switches = parse(flow, arguments)
    try:
        found = flow.preflight(options, **switches)
        result = _run_flow(flow, found) if isinstance(found, Start) else found
    except (Exception, KeyboardInterrupt) as error:
        if not _is_interrupt(error):
            raise
        raise KeyboardInterrupt(f"interrupted; {flow.interrupted}") from error
    return result.line(time.monotonic() - began)


def parse(flow: FlowEntry, arguments: list[str]) -> tuple[Any, dict[str, bool]]:
    """Return the options and the given switches. Flags override --config, which overrides the defaults.

    Raises InputError for invalid arguments.
    """
    texts = {"prog": flow.prog, "usage": flow.usage, "description": flow.description, "epilog": flow.epilog}
    parser, running = options_parser(flow.options, **texts)
    for name, text in flow.switches.items():
        running.add_argument(f"--{name}", action="store_true", help=text)
    given = vars(parser.parse_args(arguments))
    switches = {name: given.pop(name) for name in flow.switches if name in given}
    return read_options(flow.options, given), switches


def _run_flow(flow: FlowEntry, start: Start) -> Result:
    if flow.needs_server:
        set_environment()
        check_configured(flow.needs_server)
    elif start.store is not None:
        if flow.holds_store:
            with hold(start.store.root, start.options.wait):
                pass  # report a busy store now, not after a server has started
        with ExitStack() as children:
            for loading in start.children:
                children.enter_context(loading)
            return load_flow(flow, start.store)(**start.options.model_dump())
    return flow.load()(**start.options.model_dump())


def finish(work: Callable[[list[str], float], dict[str, Any]], arguments: list[str] | None = None) -> int:
    """Do a command's work, print its JSON record, report an error in one line, and return the exit status.

    work: takes the arguments and the start time of the command (time.monotonic), and returns the record.
    """
    began = time.monotonic()
    _take_signals()
    _log_to_stderr()
    record: dict[str, Any] | None = None
    status = 0
    try:
        record = work(sys.argv[1:] if arguments is None else arguments, began)
    except (Exception, KeyboardInterrupt) as error:
        if _is_interrupt(error) and not isinstance(error, KeyboardInterrupt):
            error = KeyboardInterrupt()
        outcome: Outcome | None = getattr(error, "outcome", None)
        record = outcome.line(time.monotonic() - began) if outcome else None
        status = exit_status(error)
        if not is_foreseen(error) and "prefect" not in sys.modules:
            traceback.print_exc()  # inside a flow, Prefect prints it
        say(f"error: {describe(error)}")
    if record is not None:
        print(json.dumps(finite(record), allow_nan=False), flush=True)
    return status


_interrupts: list[int] = []  # the signals that have interrupted this command


def _take_signals() -> None:
    """Treat SIGTERM like Ctrl-C, so that no child and no server stays behind. A shell may have ignored Ctrl-C."""
    _interrupts.clear()
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(signal_number, frame):
    _interrupts.append(signal_number)
    raise KeyboardInterrupt


def _is_interrupt(error: BaseException) -> bool:
    """Whether a signal is the cause. A library may raise an error of its own in place of KeyboardInterrupt."""
    return isinstance(error, KeyboardInterrupt) or (bool(_interrupts) and "KeyboardInterrupt" in _told(error))


def _told(error: BaseException | None) -> str:
    """The types and messages of an error and of those that led to it."""
    return "" if error is None else f"{error!r} {_told(error.__cause__ or error.__context__)}"


class _ToStderr(logging.Handler):
    """Writes each line to the current sys.stderr, so that it appears above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def _log_to_stderr() -> None:
    """Send the log of the rooms to standard error as plain lines."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
        logging.getLogger(name).handlers = [_ToStderr()]


def describe(error: BaseException) -> str:
    """Describe an error in one line."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}; what was finished is kept"
    if _is_unreached(error):
        return unreached()
    if str(error).startswith("Client error '401 Unauthorized'"):
        return shut_out()
    return one_line(str(error)) or type(error).__name__


def _is_unreached(error: BaseException) -> bool:
    """Whether Prefect's client could not connect. Compares names, so that httpx need not be imported."""
    return str(error).startswith("Failed to reach API") or type(error).__name__ in ("ConnectError", "ConnectTimeout")
