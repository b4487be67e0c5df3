"""Task `inspect_data`: finds faults in the data of a version, and writes the report and the tables."""

from collections.abc import Callable

from prefect import task

from tasks.caching import RETRY
from workers.children.watchdog import Limits
from workers.devices import Slot
from workers.jobs.inspect_data import Inspected, InspectJob
from workers.runners.base import RunnerName
from workers.runners.running import extraction_logs, runner

# The comparison of all pairs reports after each block; a fit of many classes takes minutes.
SILENCE_SECONDS = 3600.0


@task(name="inspect_data", **RETRY, cache_policy=None)
def inspect_data(
    job: InspectJob, slots: tuple[Slot, ...], on_progress: Callable[[dict], None], runner_name: RunnerName = "local"
) -> Inspected:
    """Inspect a version in one slot of the runner."""
    with runner(runner_name, slots, extraction_logs(job.space.store)).lease() as lease:
        return Inspected.of(lease.call("inspect", job.record(), on_progress, Limits(SILENCE_SECONDS)))
