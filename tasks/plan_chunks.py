"""Task `plan_chunks`: finds what has to be extracted and committed."""

from pathlib import Path

from prefect import task

from storage.planning.free_space import check_room
from storage.planning.options import PlanOptions
from storage.planning.plan import make_plan
from storage.planning.plan_files import save_plan
from storage.source.scan_files import load_listing
from tasks.caching import RETRY
from workers.jobs.records import ListingRecord, PlanRecord, Space
from workers.jobs.size_and_rate import row_bytes
from workers.jobs.spaces import plan_record


@task(name="plan_chunks", task_run_name="plan_chunks ({listing.images})", **RETRY, cache_policy=None)
def plan_chunks(space: Space, listing: ListingRecord, options: PlanOptions) -> PlanRecord:
    """Plan the extraction. Never cached, because the store and the free space may have changed. Raises NoRoom."""
    listed = load_listing(Path(listing.path))
    plan = make_plan(space.store, listed, options)
    check_room(space.store, plan, row_bytes(space, plan.format))
    path = save_plan(plan, Path(listing.path).parent)
    return plan_record(space, plan, str(path))
