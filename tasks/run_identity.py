"""What the server records of a flow run: its process, name and tags."""

import logging

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run as this_run

from tasks.processes import Process

logger = logging.getLogger(__name__)


def name_process(flow, flow_run, state) -> None:
    """Record the process of a flow run on the server. A hook that flows call when they begin to run.

    `python -m flows.reap` reads the record. A run never fails because it could not be written.
    """
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(flow_run.id, Process.own().labels())
    except Exception as error:  # the server may be busy or gone, but the work goes on
        logger.warning("the server did not record the process of flow run %s: %s", flow_run.name, error)


def name_run(name: str, *tags: str) -> None:
    """Name the current flow run, and add tags to those that it has. A failure to do so never fails the run."""
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(this_run.id, name=name, tags=sorted({*this_run.tags, *tags}))
    except Exception as error:
        logger.warning("the server did not rename the flow run to %s: %s", name, error)
