"""Flow `extract-and-train`: from a folder of images to features, a committed version and a trained head.

    python flows/pipeline.py --images FOLDER --store STORE

As a script it checks whether there is anything to do (flows/preflight/pipeline.py) before it imports Prefect.
"""

if __name__ == "__main__":
    from flows.cli.leaving import leave  # isort: split
    from flows.cli.command import main
    from flows.registry import PIPELINE

    raise leave(main(PIPELINE))

from collections.abc import Callable

from prefect import flow, get_run_logger

from flows.console.exit_status import check_budget
from flows.console.messages import (
    cautions,
    changes,
    committed,
    half_augmented,
    lost,
    remarks_on,
    reported,
    run_name,
    spent,
    trained,
    training_on,
    tuned,
    tuning,
)
from flows.console.outcome import Outcome, check_converged, outcome_of, reporting
from flows.console.progress import Progress, shown
from flows.console.training_progress import Training
from flows.options import demo
from flows.options.flat import takes_options
from flows.options.pipeline import PipelineOptions
from flows.steps.convergence import at_rest, is_deployed, turn_seconds, until_committed, until_current
from flows.steps.engine_choice import settle_engine
from flows.steps.extraction import extract_chunks
from storage.backend.lock import hold
from storage.manifest.space import create_space
from storage.planning.plan_files import using
from tasks.artifacts import ProgressArtifact, show_head, show_quarantine, show_version
from tasks.build_manifest import build_manifest
from tasks.caching import kept
from tasks.fine_tune import fine_tune
from tasks.list_images import list_images
from tasks.plan_chunks import plan_chunks
from tasks.run_identity import name_process, name_run
from tasks.scan_images import scan_images
from tasks.train_head import logs_of, train_head
from workers.jobs.choice import as_they_stand, chosen
from workers.jobs.records import HeadJob, HeadResult, ScanRecord, Space, VersionRecord
from workers.jobs.size_and_rate import remember_rate, seconds_a_chunk
from workers.jobs.spaces import keep_space_weights
from workers.runners.running import extraction_logs, running, training_logs
from workers.runners.warm_up import placed_early, training


@flow(name="extract-and-train", flow_run_name="{images}", validate_parameters=True, on_running=[name_process])
@takes_options
def extract_and_train(options: PipelineOptions) -> Outcome:
    """List images, extract new ones, commit a version and train its head. Repeat for images that arrive meanwhile."""
    if options.images is None:
        options = demo.stand_in(options, options.changed(), get_run_logger().info)
    space = options.space()
    with (
        shown() as progress,
        hold(space.store.root, turn_seconds(options.wait), progress.say),
        using(space.store),
        running(extraction_logs(space.store)),
        running(training_logs(space.store)),
    ):
        progress.say(*cautions(options.runner))
        outcome = until_current(
            lambda: one_round(space, options, progress), lambda: look_again(space, options, progress), progress.say
        )
        progress.say(f"time: {spent(progress.seconds)}")
        return outcome.with_times(progress.seconds)


def one_round(space: Space, options: PipelineOptions, progress: Progress) -> tuple[Outcome, str]:
    """Bring the version and its head up to date with the folder. Returns the outcome and the digest of the scan."""
    outcome, version, scan = extract(space, options, progress)
    if not options.extract_only:
        with reporting(outcome):
            check_budget(outcome, options.max_bad_fraction, space.root)
            jobs, heads = train(space, version, options, progress)
        outcome, best = outcome.with_heads(jobs, heads), chosen(heads)
        with reporting(outcome):
            check_converged(heads[best])
            model = tune(space, version, options, jobs[best], progress)
        outcome = outcome.with_model(model)
        with reporting(outcome):
            check_converged(model)
    return outcome, scan.digest


def look_again(space: Space, options: PipelineOptions, progress: Progress) -> ScanRecord | None:
    """Scan once more at the end. Returns None with --limit, or if the scan fails, since the work is done."""
    if options.limit is not None:
        return None
    with progress.step("scan"):
        state = scan(space, options, return_state=True)
    return state.result() if state.is_completed() else None


def scan(space: Space, options: PipelineOptions, **how):
    """Run the task `scan_images` with the options. how: arguments of the task call."""
    return scan_images(space, options.layout, options.labels, options.outside_links, options.allow_relabels, **how)


def extract(space: Space, options: PipelineOptions, progress: Progress) -> tuple[Outcome, VersionRecord, ScanRecord]:
    """Extract and commit the next version. If another run commits one first, start again on top of it."""
    create_space(space.store, space.spec.record(), options.single_writer)
    return until_committed(lambda: _extract(space, options, progress), progress.say)


def _extract(space: Space, options: PipelineOptions, progress: Progress) -> tuple[Outcome, VersionRecord, ScanRecord]:
    with progress.step("scan"):
        # A deployment's run waits until the files settle: its schedule may start it while somebody copies files, and
        # nobody waits for it.
        scanned = at_rest(lambda: scan(space, options)) if is_deployed() else scan(space, options)
    with progress.step("list"):
        listing = kept(list_images, space)(space, scanned, options.rehash)
    with progress.step("plan"):
        plan = plan_chunks(space, listing, options.plan_options())
    progress.say(changes(listing.images, plan.counts))
    progress.say(*plan.findings)
    name_run(run_name(space.images, listing.images, plan), space.spec.backbone)
    engine = settle_engine(options.engine, plan, options.runner, progress.say)
    placed = placed_early(extraction_logs(space.store), engine) or options.placement(engine, space.spec)
    placed = placed.at_most(plan.num_chunks)
    with progress.step("extract"):
        seconds = seconds_a_chunk(space.store, plan.rows / max(1, plan.num_chunks), len(placed.slots))
        chunks = extract_chunks(plan, placed, engine, seconds, progress, options.runner, at_a_free_core(space, options))
    with progress.step("commit"):
        keep_space_weights(space)  # before the first version, also of a run without chunks
        version = kept(build_manifest, space)(plan, chunks)
    show_version(version)
    show_quarantine(space, version)
    outcome = outcome_of(plan, chunks, version)
    progress.say(committed(outcome, chunks))
    progress.say(*version.findings, *lost(chunks))
    remember_rate(space.store, outcome.extract_images_per_second)
    return outcome, version, scanned


def at_a_free_core(space: Space, options: PipelineOptions) -> Callable[[], None]:
    """What can be done while the last chunks are extracted: load the child of the training, keep the weights."""

    def act() -> None:
        if not options.extract_only:
            training(options.runner, space).begin()
        keep_space_weights(space)

    return act


def train(
    space: Space, version: VersionRecord, options: PipelineOptions, progress: Progress
) -> tuple[tuple[HeadJob, ...], tuple[HeadResult, ...]]:
    """Train the heads of the newest version, one after another. Each is compared with the one that is current then."""
    jobs = options.head_jobs(space, version)
    progress.say(training_on(version.of_classes(jobs[0].spec.classes)))
    if jobs[0].lacking:
        progress.say(half_augmented(jobs[0]))
    with progress.step("train"), running(logs_of(jobs[0])):
        heads = as_they_stand(space.store, [train_one(space, job, options, progress) for job in jobs])
    for job, head in sorted(zip(jobs, heads, strict=True), key=lambda each: each[1] is heads[chosen(heads)]):
        show_head(job, head)
    progress.say(*remarks_on(jobs, heads))
    return jobs, heads


def train_one(space: Space, job: HeadJob, options: PipelineOptions, progress: Progress) -> HeadResult:
    """Train a head, or find it."""
    training = Training(progress, ProgressArtifact("training-progress", f"Training on version {job.version}"))
    head = kept(train_head, space)(job, training.on_progress, options.runner)
    training.end()
    progress.say(trained(job, head))
    if head.promotion:
        progress.say(head.promotion)
    if head.is_new:
        progress.say(reported(head, logs_of(job)))
    return head


def tune(
    space: Space, version: VersionRecord, options: PipelineOptions, head: HeadJob, progress: Progress
) -> HeadResult | None:
    """Fine-tune the network with the head. Returns None if fine-tuning was not requested."""
    job = options.fine_tune_job(space, version, head)
    if job is None:
        return None
    progress.say(tuning(job))
    with progress.step("fine-tune"), running(logs_of(job)):
        training = Training(
            progress, ProgressArtifact("fine-tuning-progress", f"Fine-tuning on version {version.number}")
        )
        model = kept(fine_tune, space)(job, training.on_progress, options.runner)
        training.end()
    show_head(job, model)
    progress.say(tuned(job, model))
    if model.is_new:
        progress.say(reported(model, logs_of(job)))
    return model
