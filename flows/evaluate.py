"""Flow `evaluate`: say how good a head of a store is on labelled images, and whether another one is better.

    python flows/evaluate.py --store STORE --images FOLDER
    python flows/evaluate.py --store STORE --split test --against HEAD

Images whose features the store has are not computed. An interrupted run continues where it ended.
"""

if __name__ == "__main__":
    from flows.cli.leaving import leave  # isort: split
    from flows.cli.command import main
    from flows.registry import EVALUATE

    raise leave(main(EVALUATE))

from dataclasses import replace

from prefect import flow

from flows.console.evaluation import Evaluation, evaluation_of
from flows.console.exit_status import check_evaluation
from flows.console.messages import cautions, evaluated, lost, spent
from flows.console.outcome import reporting
from flows.console.progress import Progress, shown
from flows.options.evaluate import EvaluateOptions
from flows.options.flat import takes_options
from flows.steps.prediction import Computed, compute
from storage.predictions.pieces import claimed, remove_pieces
from tasks.artifacts import show_evaluation
from tasks.evaluate_predictions import evaluate_predictions
from tasks.list_labelled import list_labelled
from tasks.plan_predictions import plan_predictions
from tasks.run_identity import name_process
from workers.jobs.labelled import LabelledRecord, check_computable, left_out
from workers.jobs.opened_head import OpenedHead
from workers.jobs.prediction_plan import PredictionPlan
from workers.jobs.records import Space


@flow(name="evaluate", validate_parameters=True, on_running=[name_process])
@takes_options
def evaluate(options: EvaluateOptions) -> Evaluation:
    """List the images, predict them with each head, and write the report."""
    options.check()
    heads, spaces, out = options.heads, options.spaces(), options.folder
    pieces = options.pieces(options.opened)
    with shown() as progress, claimed(pieces, out):
        progress.say(*cautions(options.runner))
        with progress.step("list"):
            listed = list_images(spaces[0], options)
        progress.say(*listed.findings, *filter(None, [left_out(listed, options.opened)]))
        done = [predict(space, head, listed, options, progress) for space, head in zip(spaces, heads, strict=True)]
        with progress.step("write"):
            found = evaluate_predictions(
                listed, heads, [each.plan for each in done], out, options.source(listed.version)
            )
        chunks = [chunk for each in done for chunk in each.chunks]
        stored, peak = sum(each.plan.stored for each in done), max(each.peak_rss_mb for each in done)
        outcome = evaluation_of(listed, options.opened, found, stored, chunks, out, peak)
        outcome = replace(outcome, stage_seconds={name: round(value, 3) for name, value in progress.seconds.items()})
        show_evaluation(found, options.source(listed.version), outcome.report)
        progress.say(*lost(chunks), *evaluated(outcome), f"time: {spent(progress.seconds)}")
        remove_pieces(pieces, keep=False)
        with reporting(outcome):
            check_evaluation(outcome, options.max_bad_fraction)
        return outcome


def list_images(space: Space, options: EvaluateOptions) -> LabelledRecord:
    """List the images that the options name."""
    names = {"images", "split", "version", "layout", "labels", "outside_links", "rehash"}
    return list_labelled(
        space, options.opened, str(options.pieces(options.opened)), **options.model_dump(include=names)
    )


def predict(
    space: Space, head: OpenedHead, listed: LabelledRecord, options: EvaluateOptions, progress: Progress
) -> Computed:
    """Predict the images with one head."""
    # The version numbers of another feature space are its own.
    version = listed.version if space.fingerprint == options.opened.fingerprint else None

    def make_plan(use_stored: bool) -> PredictionPlan:
        pieces, size = str(options.pieces(head)), options.chunk_size
        plan = plan_predictions(space, listed, head, pieces, False, size, use_stored, version)
        check_computable(plan, listed, head)
        return plan

    return compute(make_plan, listed, head, options, progress)
