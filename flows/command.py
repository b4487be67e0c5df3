"""The command line: flags to options, nothing-to-do found out at once, errors in one line, one JSON record.

Imports no Prefect and no TensorFlow until there is something to do.
"""

import argparse
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from flows import demo
from flows.flags import options_parser, read_options
from flows.options import PipelineOptions
from flows.outcome import FORESEEN, Outcome, check_budget, check_converged, exit_status, outcome_of, telling
from flows.words import changes, duration, half_augmented, say
from storage.digests import list_images
from storage.disk import check_room, expected_bytes, free_bytes
from storage.files import counts
from storage.finite import finite
from storage.heads import is_unranked
from storage.layout import Store
from storage.lock import hold
from storage.plan import Plan, make_plan
from storage.scan import check_folder, scan_folder
from storage.words import visible
from tasks.heads import find_head
from tasks.rates import known_rate
from tasks.records import Space
from tasks.survey import plan_record, row_bytes, version_record
from tasks.worker_pool import PoolClosed

ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "storage,vision,tasks",
}
# Before a person the bars and our own lines are enough; Prefect's log goes to its server in any case.
WATCHED = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING"}
# Of a run that was interrupted the last line tells.
NOISE = (PoolClosed.__name__, "was aborted by an interrupt signal", "was aborted by a termination signal")


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
    for room in ("storage", "vision", "tasks"):
        logging.getLogger(room).setLevel(logging.INFO)
        logging.getLogger(room).handlers = [_ToStderr()]


def run(options: PipelineOptions, only_plan: bool, began: float) -> dict[str, Any]:
    """Do what there is to do, and return the JSON record."""
    if options.images is None:
        options = demo.stand_in(options, options.model_fields_set, say)
    check_folder(options.folder)  # before the weights: what is missing here costs nothing to know
    space = options.space()
    scanned = scan_folder(
        options.folder, options.layout, options.label_file, options.outside_links, options.precedent(space)
    )
    plan = make_plan(space.store, list_images(scanned, space.store.cache, options.rehash), options.plan_options())
    if only_plan:
        return _describe_plan(space, plan)
    try:
        outcome = _nothing_to_do(space, plan, options)
    except Exception:  # what was found says more of it
        say(*plan.findings)
        raise
    if outcome is not None:
        say(*plan.findings)
        what = "" if options.extract_only else ", and its head is there"
        say(f"nothing to do: version {outcome.version} holds all {outcome.images:,} images{what}")
    else:
        check_room(space.store, plan, row_bytes(space, plan.format))
        with hold(space.store.root, options.wait):
            pass  # busy is better known now than after a server has started
        outcome = _run_flow(space, options)
    return outcome.line(time.monotonic() - began)


def _run_flow(space: Space, options: PipelineOptions) -> Outcome:
    start_prefect(space.store)
    from flows.pipeline import extract_and_train

    return extract_and_train(**options.model_dump())


def start_prefect(store: Store) -> None:
    """Let this process have a Prefect server, and keep what is foreseen off the terminal. Flows are imported after it."""
    set_environment()
    say("starting Prefect, which takes half a minute the first time")
    from flows.server import start_server

    start_server(store.cache / "logs" / "server.log")
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_noise)


def set_environment() -> None:
    """What Prefect reads of the environment when it is imported, where the user has not said otherwise."""
    for name, value in (ENVIRONMENT | (WATCHED if sys.stderr.isatty() else {})).items():
        os.environ.setdefault(name, value)


def _without_noise(record: logging.LogRecord) -> bool:
    """Foreseen errors need no traceback on the terminal, and what an end cut off no line; the rest stays."""
    if record.exc_info and isinstance(record.exc_info[1], FORESEEN):
        record.exc_info = None
    return not any(noise in record.getMessage() for noise in NOISE)


def _nothing_to_do(space: Space, plan: Plan, options: PipelineOptions) -> Outcome | None:
    """The outcome of a run that would change nothing; None where there is something to do."""
    if plan.needs_commit or plan.parent is None:
        return None
    version = version_record(plan.parent)
    outcome = outcome_of(plan_record(space, plan, ""), [], version)
    if options.extract_only:
        return outcome
    with telling(outcome):
        check_budget(outcome, options.max_bad_fraction, space.root)
        job = options.head_job(space, version)
    head = find_head(space.store, job.name)
    if head is None or job.is_forced or is_unranked(space.store, job.name):
        return None
    if job.promote == "always" and not head.is_promoted:
        return None
    tuning = options.fine_tune_job(space, version)
    model = find_head(space.store, tuning.name) if tuning else None
    if head.diverged is None and tuning and model is None:
        return None
    if job.lacking:
        say(half_augmented(job))
    outcome = outcome.with_head(head).with_model(model)
    with telling(outcome):
        check_converged(head)
        check_converged(model)
    return outcome


def _describe_plan(space: Space, plan: Plan) -> dict[str, Any]:
    """Say what a run would do and why; the record has the same figures."""
    record = plan_record(space, plan, "")
    expected_size, free = expected_bytes(plan, row_bytes(space, plan.format)), free_bytes(space.store.root)
    rate = known_rate(space.store)
    seconds = plan.num_rows / rate if rate else None
    expected = f"about {duration(seconds)}" if seconds is not None else "a time that a first run tells"
    c = record.counts
    say(changes(plan.files.num_rows, c))
    say(*plan.findings)
    reasons = [("stale", "as the feature space is another"), ("lost", "as their shard is lost")]
    why = "".join(f", {c[key]:,} {reason}" for key, reason in reasons if c[key])
    adopted = f"; adopted from a run that died: {c['adopted']:,}" if c["adopted"] else ""
    views = f" ({plan.num_rows:,} views)" if plan.num_rows != plan.todo.num_rows else ""
    say(f"to extract: {plan.todo.num_rows:,}{views} in {plan.num_chunks:,} chunks{why}{adopted}")
    room = "" if free is None else f" ({free / 1e6:,.1f} MB free)"
    say(f"expected: {expected_size / 1e6:,.1f} MB of shards{room}, {expected}; nothing was done")
    return {
        **record.counts,
        **counts(plan.files),
        "to_extract": plan.todo.num_rows,
        "views_to_extract": plan.num_rows,
        "chunks": plan.num_chunks,
        "needs_commit": plan.needs_commit,
        "parent": record.parent,
        "fingerprint": space.fingerprint,
        "expected_bytes": expected_size,
        "free_bytes": free,
        "expected_seconds": None if seconds is None else round(seconds, 1),
    }


def parse(arguments: list[str]) -> tuple[PipelineOptions, bool]:
    """Options from flags, over those of --config, over the defaults; and whether only to plan."""
    given = vars(_parser().parse_args(arguments))
    only_plan = given.pop("plan", False)
    return read_options(PipelineOptions, given), only_plan


def _parser() -> argparse.ArgumentParser:
    parser, running = options_parser(
        PipelineOptions,
        prog="python flows/pipeline.py",
        usage="%(prog)s [--images FOLDER] [--store FOLDER] [--weights imagenet|random|FILE] [options]",
        description="Extract features of a folder of images, only what is new, and train a classifier on them. "
        "Without --images a demo runs.",
        epilog="Exit status: 0 done, 1 failure, 2 bad arguments or input, 3 too many unusable images, "
        "4 too many images gone or labelled otherwise than before, 5 store busy, 130 interrupted. The last line on standard output is one JSON object.",
    )
    running.add_argument("--plan", action="store_true", help="say what a run would do and why, and do nothing")
    return parser


def describe(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted; finished shards are kept, and the next run goes on from them"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}; what was finished is kept"
    if _is_unreached(error):
        from flows.server import unreached

        return unreached()
    if str(error).startswith("Client error '401 Unauthorized'"):
        from flows.server import shut_out

        return shut_out()
    return visible(" ".join(str(error).split())) or type(error).__name__


def _is_unreached(error: BaseException) -> bool:
    """Whether Prefect's client found nobody; httpx is not imported to know that."""
    return str(error).startswith("Failed to reach API") or type(error).__name__ in ("ConnectError", "ConnectTimeout")
