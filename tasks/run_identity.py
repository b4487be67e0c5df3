"""What the server records of a flow run: its process, its name and its tags."""

import logging

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run as this_run

from tasks.processes import Process

logger = logging.getLogger(__name__)


def name_process(flow, flow_run, state) -> None:
    """Let the server know which process a flow run is. A hook of flows, for when they begin to run.

    `python -m flows.reap` reads it; a run never fails for want of it.
    """
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(flow_run.id, Process.own().labels())
    except Exception as error:  # the server may be busy or gone; the work is not
        logger.warning("the process of flow run %s is not known to the server: %s", flow_run.name, error)


def name_run(name: str, *tags: str) -> None:
    """Give the flow run that is going on a name, and add tags to those that it has. A run never fails for want of them."""
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(this_run.id, name=name, tags=sorted({*this_run.tags, *tags}))
    except Exception as error:
        logger.warning("the flow run was not named %s: %s", name, error)
