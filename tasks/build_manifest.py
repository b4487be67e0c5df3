"""Task `build_manifest`: commits the next version."""

from dataclasses import replace
from pathlib import Path

from prefect import task

from storage.manifest.findings import unusable_classes
from storage.manifest.versions import commit, latest_version
from storage.planning.plan import finish, has_changes
from storage.planning.plan_files import load_plan
from storage.records import sha256
from storage.shards.shard import ShardRef
from tasks.caching import RETRY, keyed
from workers.jobs.records import ChunkResult, PlanRecord, VersionRecord
from workers.jobs.spaces import version_record


def _key(plan: PlanRecord, chunks: list[ChunkResult]) -> str:
    shards = "".join(sorted(chunk.shard for chunk in chunks))
    return f"manifest-{Path(plan.path).stem}-{sha256(shards.encode())}"


@task(name="build_manifest", task_run_name="build_manifest ({plan.images} new)", **RETRY, cache_key_fn=keyed(_key))
def build_manifest(plan: PlanRecord, chunks: list[ChunkResult]) -> VersionRecord:
    """Commit the plan and its shards as the next version. If they add nothing new, return the newest version."""
    store = plan.space.store
    if plan.needs_commit:
        planned = load_plan(store, Path(plan.path))
        refs = {ShardRef(chunk.shard, chunk.size_bytes, chunk.rows, chunk.footer_checksum) for chunk in chunks}
        files, rows, shards, augmentations = finish(store, planned, refs)
        if has_changes(store, planned.parent, files, shards, planned.corrections):
            record = version_record(
                commit(store, planned.parent, files, rows, shards, augmentations, corrections=planned.corrections)
            )
            found = [f"warning: {line}" for line in unusable_classes(files)]
            return replace(record, findings=tuple(line for line in found if line not in planned.findings))
    newest = latest_version(store)
    assert newest is not None, "a plan without a parent always needs a commit"
    return version_record(newest)
