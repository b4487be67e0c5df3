"""Set runs to Crashed if the server lists them as running but their processes are gone.

    python -m flows.reap

Such a run holds the concurrency slot of its deployment, so no other run of the deployment can begin. Each flow run of
this project registers its process with the server (tasks/run_identity.py). Runs on other machines are left alone,
because this machine cannot see their processes.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.cli.command import finish
from flows.cli.launch import set_environment
from flows.cli.parser import OneLineParser
from flows.cli.prefect_server import check_configured
from flows.console.messages import say
from flows.registry import FLOWS
from storage.cli.bounds import at_least
from storage.text import count
from tasks.processes import Process

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas import FlowRun, TaskRun

PAGE = 200
# Between Pending and Running, a process starts and imports Prefect, which takes seconds, or a minute on a slow disk.
PENDING_SECONDS = 300.0
# The server records task runs some seconds after their flow run has ended.
WRITTEN_SECONDS = 60.0


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return finish(lambda given, began: run(parse(given), began), arguments)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the flags. Raises InputError for invalid ones."""
    parser = OneLineParser(
        prog="python -m flows.reap",
        description="Set flow and task runs of this project to Crashed if the server lists them as running but their processes on "
        "this machine are gone.",
        epilog="Exit status: 0 done, 1 failure, 2 bad arguments. The last line on standard output is one JSON object.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--pending",
        metavar="SECONDS",
        type=at_least(0, float),
        default=PENDING_SECONDS,
        help="treat a run as dead after SECONDS in state Pending (300)",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="treat every run as dead unless its process is known to be alive; includes runs of other machines",
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, began: float) -> dict[str, Any]:
    """Reap dead runs, and return the JSON record."""
    set_environment()
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed

    check_configured("it names the Prefect server whose runs to check")
    with get_client(sync_client=True) as client:
        active = _active(client)
        dead = [flow_run.id for flow_run in active if _reap(client, flow_run, options)]
        abandoned = _abandoned(client, dead)
        for task_run_id in abandoned:
            client.set_task_run_state(task_run_id, Crashed(message="Its flow run ended without it."), force=True)
    say(f"{len(dead)} of {count(len(active), 'active flow run')} and {count(len(abandoned), 'task run')} were dead")
    return {
        "flow_runs": len(dead),
        "task_runs": len(abandoned),
        "left": len(active) - len(dead),
        "elapsed_seconds": round(time.monotonic() - began, 4),
    }


def _reap(client: "SyncPrefectClient", flow_run: "FlowRun", options: argparse.Namespace) -> bool:
    """Set a dead flow run to Crashed, or to Cancelled if it was being cancelled. Returns whether it was dead."""
    from prefect.states import Cancelled, Crashed

    state, why = flow_run.state, death(flow_run, datetime.now(UTC), options.pending, options.all)
    if state is None or why is None:
        return False
    kind = Cancelled if state.is_cancelling() else Crashed
    client.set_flow_run_state(flow_run.id, kind(message=f"It was {state.name}, and {why}."), force=True)
    say(f"{flow_run.name} ({flow_run.id}) was {state.name}, and {why}: {kind.__name__}")
    return True


def death(flow_run: "FlowRun", now: datetime, pending_seconds: float, is_all: bool) -> str | None:
    """Why a flow run that the server lists as active is dead; None if it is alive, or may be."""
    state, process = flow_run.state, Process.of(flow_run.labels)
    assert state is not None
    if state.is_pending():
        waits = (now - state.timestamp).total_seconds()
        return f"it has not started for {waits:.0f} s" if is_all or waits >= pending_seconds else None
    is_alive = process.is_alive() if process else None
    if is_alive:
        return None
    if is_alive is False:
        return f"its process {process.pid} is gone"  # type: ignore[union-attr]
    return "its process is unknown" if is_all else None


def _active(client: "SyncPrefectClient") -> list["FlowRun"]:
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter
    from prefect.client.schemas.objects import StateType

    states = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    flows = FlowFilter(name=FlowFilterName(any_=list(FLOWS)))
    runs = FlowRunFilter.model_validate({"state": {"type": {"any_": states}}})
    return list(_pages(partial(client.read_flow_runs, flow_filter=flows, flow_run_filter=runs)))


def _abandoned(client: "SyncPrefectClient", reaped: list[UUID]) -> dict[UUID, "TaskRun"]:
    """Active task runs whose flow run ended: at least WRITTEN_SECONDS ago, or because this process reaped it."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, TaskRunFilter
    from prefect.client.schemas.objects import TERMINAL_STATES, StateType

    ended = (datetime.now(UTC) - timedelta(seconds=WRITTEN_SECONDS)).isoformat()
    of_ended = {"state": {"type": {"any_": sorted(TERMINAL_STATES)}}, "end_time": {"before_": ended}}
    flows = FlowFilter(name=FlowFilterName(any_=list(FLOWS)))
    tasks = TaskRunFilter.model_validate({"state": {"type": {"any_": [StateType.RUNNING, StateType.PENDING]}}})
    found: dict[UUID, TaskRun] = {}
    for question in (of_ended, {"id": {"any_": reaped}}):
        runs = FlowRunFilter.model_validate(question)
        ask = partial(client.read_task_runs, flow_filter=flows, flow_run_filter=runs, task_run_filter=tasks)
        found |= {task_run.id: task_run for task_run in _pages(ask)}
    return found


def _pages(read: Callable[..., list]) -> Iterator[Any]:
    """All results of a query to the server, page by page."""
    offset = 0
    while found := read(limit=PAGE, offset=offset):
        yield from found
        offset += PAGE


if __name__ == "__main__":
    raise SystemExit(main())
