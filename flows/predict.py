"""Flow `predict`: label images with a head of a store, and write one row per image.

    python flows/predict.py --store STORE --images FOLDER --out predictions.csv

Images whose features the store has are not computed. An interrupted run continues where it ended.
"""

if __name__ == "__main__":
    from flows.cli.leaving import leave  # isort: split
    from flows.cli.command import main
    from flows.registry import PREDICT

    raise leave(main(PREDICT))

from dataclasses import replace
from functools import partial

from prefect import flow

from flows.console.exit_status import check_predictions
from flows.console.messages import cautions, lost, predicted, spent
from flows.console.outcome import reporting
from flows.console.predictions import Predictions, predictions_of
from flows.console.progress import shown
from flows.options.flat import takes_options
from flows.options.predict import PredictOptions
from flows.steps.prediction import compute
from storage.predictions.pieces import claimed
from tasks.artifacts import show_predictions
from tasks.list_inbox import list_inbox
from tasks.plan_predictions import plan_predictions
from tasks.run_identity import name_process
from tasks.write_predictions import write_predictions


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
        own = {"keep_features": options.keep_features, "chunk_size": options.chunk_size}
        make_plan = partial(plan_predictions, space, inbox, options.opened, pieces, **own)
        plan, chunks, peak = compute(make_plan, inbox, options.opened, options, progress)
        with progress.step("write"):
            written = write_predictions(inbox, plan, options.columns, str(options.file), options.append)
        outcome = predictions_of(inbox, plan, options.opened, chunks, written, str(options.file), peak)
        outcome = replace(outcome, stage_seconds={name: round(value, 3) for name, value in progress.seconds.items()})
        show_predictions(written.predicted, written.statuses, outcome.out)
        progress.say(*lost(chunks), predicted(outcome), f"time: {spent(progress.seconds)}")
        with reporting(outcome):
            check_predictions(outcome, options.max_bad_fraction)
        return outcome
