"""Flow `inspect-data`: find what is wrong with the data of a store: leaks, suspect labels, odd pictures.

    python flows/inspect_data.py --store STORE --out FOLDER

The store stays as it is. Pictures that an earlier inspection measured are not read for that again.
"""

if __name__ == "__main__":
    from flows.cli.leaving import leave  # isort: split
    from flows.cli.command import main
    from flows.registry import INSPECT

    raise leave(main(INSPECT))

from prefect import flow

from flows.console.inspection import Inspection, inspected, outcome_of
from flows.console.messages import cautions, lost, spent
from flows.console.progress import Progress, shown
from flows.options.flat import takes_options
from flows.options.inspect_data import InspectOptions
from flows.steps.extraction import extract_chunks
from storage.text import visible
from tasks.artifacts import show_inspection
from tasks.inspect_data import inspect_data
from tasks.measure_chunk import measure_chunk
from tasks.plan_quality import plan_quality
from tasks.run_identity import name_process
from workers.jobs.inspect_data import Inspected, InspectJob
from workers.jobs.quality_plan import remove_plan
from workers.jobs.records import ChunkResult
from workers.runners.running import extraction_logs, running


@flow(name="inspect-data", validate_parameters=True, on_running=[name_process])
@takes_options
def inspect_images(options: InspectOptions) -> Inspection:
    """Measure the pictures of a version, look for faults, and write the report."""
    options.check()
    space = options.feature_space
    with shown() as progress:
        progress.say(*cautions(options.runner), f"the images are in {visible(space.images)}")
        chunks = measure(options, progress)
        found = look(options, progress)
        measured = sum(chunk.rows for chunk in chunks)
        outcome = outcome_of(
            found, space.fingerprint, measured, str(options.folder), options.report, dict(progress.seconds)
        )
        show_inspection(found, outcome.report)
        progress.say(*lost(chunks), *inspected(outcome), f"time: {spent(progress.seconds)}")
        return outcome


def measure(options: InspectOptions, progress: Progress) -> list[ChunkResult]:
    """Measure the pictures that have no figures yet."""
    space = options.feature_space
    with progress.step("plan"):
        plan = plan_quality(space, options.inspected.number, options.chunk_size)
    placed = options.placement("tensorflow", space.spec)
    with progress.step("measure"):
        done = extract_chunks(
            plan, placed, "Pillow", None, progress, options.runner, task=measure_chunk, verb="inspect"
        )
    remove_plan(plan)
    return done


def look(options: InspectOptions, progress: Progress) -> Inspected:
    """Look for faults in the vectors and figures, and write the files."""
    space, version = options.feature_space, options.inspected
    job = InspectJob(space, version.number, str(options.folder))
    meter = progress.meter("compare", version.counts["ok"], "images")
    slots = options.placement("tensorflow", space.spec).slots[:1]
    with progress.step("inspect"), running(extraction_logs(space.store)):
        return inspect_data(job, slots, lambda record: meter.update(record["done"]), options.runner)
