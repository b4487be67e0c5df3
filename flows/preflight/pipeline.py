"""The preflight of `extract-and-train`: it scans the folder and computes what there is to do."""

from dataclasses import dataclass
from typing import Any

from flows.console.exit_status import check_budget
from flows.console.messages import changes, duration, half_augmented, remarks_on, say
from flows.console.outcome import Outcome, check_converged, outcome_of, reporting
from flows.options import demo
from flows.options.pipeline import PipelineOptions
from flows.preflight.start import Result, Start
from storage.heads.registry import is_unranked
from storage.manifest.file_table import counts
from storage.manifest.space import has_spec
from storage.planning.free_space import check_room, expected_bytes, free_bytes
from storage.planning.plan import Plan, make_plan
from storage.source.listing import list_images
from storage.source.scan import check_folder, scan_folder
from storage.text import count
from workers.jobs.choice import chosen
from workers.jobs.head_identity import find_head
from workers.jobs.records import Space
from workers.jobs.size_and_rate import known_rate, row_bytes
from workers.jobs.spaces import plan_record, version_record


@dataclass(frozen=True)
class Preview:
    """What a run would do, as `--plan` prints it."""

    record: dict[str, Any]

    def line(self, elapsed_seconds: float) -> dict[str, Any]:
        return self.record


def check_pipeline(options: PipelineOptions, plan: bool = False) -> Result | Start:
    """Return Start if there is work to do, and otherwise the outcome. plan: only report what a run would do."""
    if options.images is None:
        options = demo.stand_in(options, options.model_fields_set, say)
    check_folder(options.folder)  # before the weights, since this check costs nothing
    space = options.space()
    scanned = scan_folder(
        options.folder, options.layout, options.label_file, options.outside_links, options.precedent(space)
    )
    listing = list_images(scanned, space.store.cache, options.rehash)
    planned = make_plan(space.store, listing, options.plan_options())
    if plan:
        return Preview(_describe_plan(space, planned))
    try:
        outcome = _nothing_to_do(space, planned, options)
    except Exception:  # the findings help to explain the error
        say(*planned.findings)
        raise
    if outcome is None:
        check_room(space.store, planned, row_bytes(space, planned.format))
        return Start(options, space.store, options.first_children(space, planned.num_chunks, planned.num_rows))
    say(*planned.findings)
    what = "" if options.extract_only else ", and its head is trained"
    reason = f"version {outcome.version} is up to date with {count(outcome.images, 'image')}{what}"
    if planned.waiting:
        reason = (
            f"{planned.waiting:,} of {count(outcome.images, 'image')} wait for a run without --limit {options.limit}"
        )
    say(f"nothing to do: {reason}")
    return outcome


def _nothing_to_do(space: Space, plan: Plan, options: PipelineOptions) -> Outcome | None:
    """The outcome of a run that would change nothing; None if there is something to do."""
    if plan.needs_commit or plan.parent is None or not has_spec(space.store):
        return None
    version = version_record(plan.parent)
    outcome = outcome_of(plan_record(space, plan, ""), [], version)
    if options.extract_only:
        return outcome
    with reporting(outcome):
        check_budget(outcome, options.max_bad_fraction, space.root)
        jobs = options.head_jobs(space, version)
    found = [find_head(space.store, job.name) for job in jobs]
    heads = [head for head in found if head is not None]
    if len(heads) < len(jobs) or any(job.is_forced or is_unranked(space.store, job.name) for job in jobs):
        return None
    head = heads[at := chosen(heads)]
    if options.promote and not head.is_promoted and head.diverged is None:
        return None
    tuning = options.fine_tune_job(space, version, jobs[at])
    model = find_head(space.store, tuning.name) if tuning else None
    if head.diverged is None and tuning and model is None:
        return None
    say(*(half_augmented(job) for job in jobs[:1] if job.lacking), *remarks_on(jobs, heads))
    outcome = outcome.with_heads(jobs, heads).with_model(model)
    with reporting(outcome):
        check_converged(head)
        check_converged(model)
    return outcome


def _describe_plan(space: Space, plan: Plan) -> dict[str, Any]:
    """Report what a run would do and why. Returns the same figures as a record."""
    record = plan_record(space, plan, "")
    expected_size, free = expected_bytes(plan, row_bytes(space, plan.format)), free_bytes(space.store.root)
    rate = known_rate(space.store)
    seconds = plan.num_rows / rate if rate else None
    expected = f"about {duration(seconds)}" if seconds is not None else "duration unknown until a first run"
    c = record.counts
    say(changes(plan.files.num_rows, c))
    say(*plan.findings)
    reasons = [("stale", "because their feature space is new"), ("lost", "because their shard is lost")]
    why = "".join(f", {c[key]:,} {reason}" for key, reason in reasons if c[key])
    adopted = f"; adopted from an interrupted run: {c['adopted']:,}" if c["adopted"] else ""
    views = f" ({count(plan.num_rows, 'view')})" if plan.num_rows != plan.todo.num_rows else ""
    images, chunks = count(plan.todo.num_rows, "image"), count(plan.num_chunks, "chunk")
    say(f"to extract: {images}{views} in {chunks}{why}{adopted}")
    room = "" if free is None else f" ({free / 1e6:,.1f} MB free)"
    say(f"expected: {expected_size / 1e6:,.1f} MB of shards{room}, {expected}; nothing changed (dry run)")
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
