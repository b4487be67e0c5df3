"""Task `plan_chunks`: what has to be extracted and committed."""

from pathlib import Path

from prefect import task

from storage.disk import check_room
from storage.handover import load_listing, save_plan
from storage.plan import PlanOptions, make_plan
from tasks.caching import RETRY
from tasks.records import ListingRecord, PlanRecord, Space
from tasks.survey import plan_record, row_bytes


@task(name="plan_chunks", task_run_name="plan_chunks ({listing.images})", **RETRY, cache_policy=None)
def plan_chunks(space: Space, listing: ListingRecord, options: PlanOptions) -> PlanRecord:
    """Always runs: it asks the store, which other runs may have moved on, and the disk."""
    listed = load_listing(Path(listing.path))
    plan = make_plan(space.store, listed, options)
    check_room(space.store, plan, row_bytes(space, plan.format))
    path = save_plan(plan, Path(listing.path).parent)
    return plan_record(space, plan, str(path))
