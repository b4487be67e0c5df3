"""Flow `extract-and-train`: from a folder of images to features, a committed version and a trained head.

    python flows/pipeline.py --images FOLDER --store STORE

As a script it first finds out whether there is anything to do (flows/command.py), before Prefect is
even imported.
"""

if __name__ == "__main__":
    from flows.command import main

    raise SystemExit(main())

from prefect import flow

from flows.conflicts import until_committed
from flows.fan_out import extract_chunks
from flows.options import PipelineOptions, takes_options
from flows.outcome import Outcome, check_budget, outcome_of, telling
from flows.progress import Progress, Training, shown
from flows.words import changes, committed, reported, spent, trained, training_on
from storage.layout import create_space
from storage.lock import hold
from tasks.artifacts import show_head, show_quarantine, show_version
from tasks.build_manifest import build_manifest
from tasks.caching import kept
from tasks.devices import slots
from tasks.list_images import list_images
from tasks.plan_chunks import plan_chunks
from tasks.rates import remember_rate, seconds_a_chunk
from tasks.records import HeadResult, Space, VersionRecord
from tasks.scan_images import scan_images
from tasks.train_head import logs_of, train_head
from tasks.worker_pool import running


@flow(name="extract-and-train", flow_run_name="{images}", validate_parameters=True)
@takes_options
def extract_and_train(options: PipelineOptions) -> Outcome:
    """List images, extract what is new, commit the next version, train its head."""
    space = options.space()
    with hold(space.store.root, options.wait), shown() as progress:
        outcome, version = extract(space, options, progress)
        if not options.extract_only:
            with telling(outcome):
                check_budget(outcome, options.max_bad_fraction, space.root)
                outcome = outcome.with_head(train(space, version, options, progress))
        progress.say(f"time: {spent(progress.seconds)}")
        return outcome.with_times(progress.seconds)


def extract(space: Space, options: PipelineOptions, progress: Progress) -> tuple[Outcome, VersionRecord]:
    """From the folder to the newest version; again where another run committed one first, on top of that."""
    create_space(space.store, space.spec.record(), options.single_writer)
    return until_committed(lambda: _extract(space, options, progress), progress.say)


def _extract(space: Space, options: PipelineOptions, progress: Progress) -> tuple[Outcome, VersionRecord]:
    working = space.store.cache / "plans"
    with progress.step("scan"):
        scan = scan_images(space, options.layout, options.label_file, str(working), options.outside_links)
    with progress.step("list"):
        listing = kept(list_images, space)(space, scan, options.rehash)
    with progress.step("plan"):
        plan = plan_chunks(space, listing, options.plan_options())
    progress.say(changes(listing.images, plan.counts))
    engine = options.chosen_engine()
    workers = slots(options.workers, engine)
    with progress.step("extract"):
        seconds = seconds_a_chunk(space.store, plan.chunk_size, len(workers))
        chunks = extract_chunks(plan, workers, engine, seconds, progress)
    with progress.step("commit"):
        version = kept(build_manifest, space)(plan, chunks)
    show_version(version)
    show_quarantine(space, version)
    outcome = outcome_of(plan, chunks, version)
    progress.say(committed(outcome, chunks))
    remember_rate(space.store, outcome.extract_images_per_second)
    return outcome, version


def train(space: Space, version: VersionRecord, options: PipelineOptions, progress: Progress) -> HeadResult:
    """From the newest version to its head."""
    job = options.head_job(space, version)
    progress.say(training_on(version))
    with progress.step("train"), running(logs_of(job)):
        head = kept(train_head, space)(job, Training(progress).on_progress)
    show_head(job, head)
    progress.say(trained(head))
    if head.is_new:
        progress.say(reported(head, space.store.cache / "logs" / "training"))
    return head
