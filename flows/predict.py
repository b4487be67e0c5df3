"""Flow `predict`: label images with a head of a store, and write one row per image.

    python flows/predict.py --store STORE --images FOLDER --out predictions.csv

Images whose features the store has are not computed. An interrupted run continues where it ended.
"""

if __name__ == "__main__":
    from flows.cli.command import main
    from flows.registry import PREDICT

    raise SystemExit(main(PREDICT))

from dataclasses import replace

from prefect import flow

from flows.console.exit_status import check_predictions
from flows.console.messages import cautions, lost, predicted, spent, to_predict
from flows.console.outcome import reporting
from flows.console.predictions import Predictions, predictions_of
from flows.console.progress import Progress, shown
from flows.options.flat import takes_options
from flows.options.predict import PredictOptions
from flows.steps.engine_choice import settle_engine
from flows.steps.extraction import extract_chunks
from storage.predictions.pieces import claimed
from tasks.artifacts import show_predictions
from tasks.extract_chunk import logs_of
from tasks.list_inbox import list_inbox
from tasks.plan_predictions import plan_predictions
from tasks.predict_chunk import predict_chunk
from tasks.predict_stored import predict_stored
from tasks.run_identity import name_process
from tasks.write_predictions import write_predictions
from workers.jobs.predict import StoredResult
from workers.jobs.prediction_plan import InboxRecord, PredictionPlan
from workers.jobs.records import ChunkResult, Space
from workers.runners.running import running


@flow(name="predict", flow_run_name="{images}", validate_parameters=True, on_running=[name_process])
@takes_options
def predict(options: PredictOptions) -> Predictions:
    """List the images, predict those without a prediction, and write the file."""
    options.check()
    space = options.space()
    pieces = str(options.pieces)
    with shown() as progress, claimed(options.pieces, options.file):
        progress.say(*cautions(options.runner))
        with progress.step("list"):
            inbox = list_inbox(space, options.images, pieces, options.outside_links, options.rehash)
        options.check_listed(inbox.files)
        plan, chunks, peak = compute(space, inbox, options, progress)
        with progress.step("write"):
            written = write_predictions(inbox, plan, options.columns, str(options.file), options.append)
        outcome = predictions_of(inbox, plan, options.opened, chunks, written, str(options.file), peak)
        outcome = replace(outcome, stage_seconds={name: round(value, 3) for name, value in progress.seconds.items()})
        show_predictions(written.predicted, written.statuses, outcome.out)
        progress.say(*lost(chunks), predicted(outcome), f"time: {spent(progress.seconds)}")
        with reporting(outcome):
            check_predictions(outcome, options.max_bad_fraction)
        return outcome


def compute(
    space: Space, inbox: InboxRecord, options: PredictOptions, progress: Progress
) -> tuple[PredictionPlan, list[ChunkResult], float]:
    """Predict every image without a prediction. Returns the plan, the chunks, and the memory of the rest in MB."""
    plan, peak = make_plan(space, inbox, options), 0.0
    progress.say(to_predict(inbox, plan))
    if plan.stored:
        with progress.step("read features"):
            found = use_stored(plan, options, progress)
        peak = found.peak_rss_mb
        if found.lost:
            plan = replace(make_plan(space, inbox, options, False), stored=found.predicted, known=plan.known)
    with progress.step("predict"):
        engine = engine_of(plan, options, progress)
        placed = options.placement(engine)
        runner, own = options.runner, {"task": predict_chunk, "verb": "predict"}
        return plan, extract_chunks(plan, placed, engine, None, progress, runner, **own), peak


def engine_of(plan: PredictionPlan, options: PredictOptions, progress: Progress) -> str:
    """The engine of the children. A fine-tuned network computes its own features."""
    if options.opened.is_whole:
        return "tensorflow"
    return settle_engine(options.engine, plan, options.runner, progress.say)


def use_stored(plan: PredictionPlan, options: PredictOptions, progress: Progress) -> StoredResult:
    """Predict the images whose features the store has, in one slot."""
    meter = progress.meter("read features", plan.stored, "images")
    with running(logs_of(plan)):
        return predict_stored(
            plan, options.placement("tensorflow").slots[:1], lambda record: meter.update(record["done"]), options.runner
        )


def make_plan(space: Space, inbox: InboxRecord, options: PredictOptions, use_stored: bool = True) -> PredictionPlan:
    """Plan what is left to do."""
    pieces, size = str(options.pieces), options.chunk_size
    return plan_predictions(space, inbox, options.opened, pieces, options.keep_features, size, use_stored)
