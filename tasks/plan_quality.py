"""Task `plan_quality`: finds the images of a version whose pictures were not measured yet."""

from prefect import task

from storage.manifest.versions import read_version
from tasks.caching import RETRY
from workers.jobs.quality_plan import plan_pictures
from workers.jobs.records import PlanRecord, Space


@task(name="plan_quality", **RETRY, cache_policy=None)
def plan_quality(space: Space, version: int, chunk_size: int | None) -> PlanRecord:
    """Plan the measurement of the pictures that have no figures yet."""
    return plan_pictures(space, read_version(space.store, version), chunk_size)
