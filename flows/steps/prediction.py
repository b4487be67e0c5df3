"""Compute the predictions of a head: from stored features where they are, else by the network."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from flows.console.messages import to_predict
from flows.console.progress import Progress
from flows.options.head import HeadOptions
from flows.steps.engine_choice import settle_engine
from flows.steps.extraction import extract_chunks
from tasks.extract_chunk import logs_of
from tasks.predict_chunk import predict_chunk
from tasks.predict_stored import predict_stored
from workers.jobs.opened_head import OpenedHead
from workers.jobs.predict import StoredResult
from workers.jobs.prediction_plan import InboxRecord, PredictionPlan
from workers.jobs.records import ChunkResult
from workers.runners.running import running


class Computed(NamedTuple):
    """The predictions of a head are in `plan.pieces`. chunks: of those that went through the network. peak_rss_mb: of the others."""

    plan: PredictionPlan
    chunks: list[ChunkResult]
    peak_rss_mb: float


def compute(
    make_plan: Callable[..., PredictionPlan],
    inbox: InboxRecord,
    head: OpenedHead,
    options: HeadOptions,
    progress: Progress,
) -> Computed:
    """Predict every image without a prediction. make_plan: takes `use_stored`, and plans what is left to do."""
    plan, peak = make_plan(use_stored=True), 0.0
    progress.say(to_predict(inbox, plan))
    if plan.stored:
        with progress.step("read features"):
            found = _use_stored(plan, options, progress)
        peak = found.peak_rss_mb
        if found.lost:
            plan = replace(make_plan(use_stored=False), stored=found.predicted, known=plan.known)
    with progress.step("predict"):
        chunks = _use_network(plan, head, options, progress)
    return Computed(plan, chunks, peak)


def _use_stored(plan: PredictionPlan, options: HeadOptions, progress: Progress) -> StoredResult:
    """Predict the images whose features the store has, in one slot."""
    meter = progress.meter("read features", plan.stored, "images")
    slots = options.placement("tensorflow", plan.space.spec).slots[:1]
    with running(logs_of(plan)):
        return predict_stored(plan, slots, lambda record: meter.update(record["done"]), options.runner)


def _use_network(plan: PredictionPlan, head: OpenedHead, options: HeadOptions, progress: Progress) -> list[ChunkResult]:
    engine = "tensorflow" if head.is_whole else settle_engine(options.engine, plan, options.runner, progress.say)
    placed = options.placement(engine, plan.space.spec)
    return extract_chunks(plan, placed, engine, None, progress, options.runner, task=predict_chunk, verb="predict")
