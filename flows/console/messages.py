"""The lines that a run prints: the same on the command line, in the log and above the progress bars."""

import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from flows.console.evaluation import Evaluation
from flows.console.outcome import Outcome
from flows.console.predictions import Predictions
from storage.finite import is_finite
from storage.heads.registry import WHOLE
from storage.text import as_flags, count
from storage.watching.arrivals import Arrival
from vision.engines.facts import remarks
from vision.study.advice import Cell
from vision.study.trainings import Row
from vision.training.head import HeadSpec
from workers.jobs.choice import chosen, overconfident
from workers.jobs.prediction_plan import InboxRecord, PredictionPlan
from workers.jobs.records import ChunkResult, HeadJob, HeadResult, PlanRecord, VersionRecord
from workers.runners.base import RunnerName
from workers.runners.inline import CAUTION


def say(*lines: str) -> None:
    """Print lines to standard error, with the flags of the parameters that they name."""
    for line in lines:
        print(as_flags(line), file=sys.stderr, flush=True)


def changes(images: int, counts: dict[str, int]) -> str:
    """How the images changed since the newest version."""
    kinds = ("new", "changed", "moved", "relabelled", "removed", "unchanged")
    changed = ", ".join(f"{counts[kind]:,} {kind}" for kind in kinds if counts[kind])
    others = f"; ignored {count(counts['ignored'], 'other file')}" if counts["ignored"] else ""
    return f"{count(images, 'image')}: {changed}{others}"


def run_name(folder: str, images: int, plan: PlanRecord) -> str:
    """The name of a run, once its plan is known."""
    return f"{folder}: {count(images, 'image')}, {plan.images:,} to extract"


def cautions(runner: RunnerName) -> list[str]:
    """Warnings about the runner and the cache of facts about engines."""
    return [*([CAUTION] if runner == "inline" else []), *remarks()]


def arrived(arrival: Arrival) -> str:
    """What a watcher announces."""
    counts = {"new": arrival.new, "changed": arrival.changed, "gone": arrival.gone}
    changed = ", ".join(f"{number:,} {kind}" for kind, number in counts.items() if number)
    return f"announcing {changed}; {count(arrival.images, 'image')} in the folder"


def committed(outcome: Outcome, chunks: list[ChunkResult]) -> str:
    """The result of extraction and commit."""
    pace = f", {outcome.extract_images_per_second:,.1f} images/s" if outcome.extract_images_per_second else ""
    where = f" ({shares(chunks)})" if chunks else ""
    left = "".join(
        f", {number:,} {kind}"
        for kind, number in (("quarantined", outcome.quarantined), ("pending", outcome.pending))
        if number
    )
    other = f"; warning: {outcome.fallback}" if outcome.fallback else ""
    return f"version {outcome.version}: {outcome.extracted:,} extracted{pace}{where}{left}{other}"


LOSSES = {
    "sixteen_bit": "{images} with 16-bit greys, for example {example}: values over 255 become white, as in Keras; "
    "--sixteen-bit scale keeps them, in another feature space",
    "transparency": "{images} whose content is only in the transparency, for example {example}: transparency is dropped, so "
    "they are blank; give them a background",
}


def lost(chunks: list[ChunkResult]) -> list[str]:
    """Warnings about image content that the features lack: one line per kind, with an example."""
    counted: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for chunk in chunks:
        counted.update(chunk.losses)
        examples = chunk.lossy | examples
    return [
        "warning: " + LOSSES[loss].format(images=count(number, "image"), example=f"'{examples[loss]}'")
        for loss, number in counted.items()
    ]


def training_on(version: VersionRecord) -> str:
    """What a head trains on."""
    sizes = {split: sum(by_class.values()) for split, by_class in version.classes.items()}
    testing = f", testing on {sizes['test']:,}" if sizes.get("test") else ""
    return (
        f"training on {count(sizes['train'], 'image')} of {count(len(version.class_names), 'class', 'classes')}, "
        f"validating on {sizes['validation']:,}{testing}"
    )


def half_augmented(job: HeadJob) -> str:
    """The warning that some training images lack variants."""
    return (
        f"warning: {count(job.lacking, 'training image')} without all of the {job.spec.variants} views: the original image "
        "replaces a missing view, and a run that has every view trains another head"
    )


def epoch(record: dict) -> str:
    """The figures of a finished epoch."""
    figures = (f"{name} {figure(record[name])}" for name in ("loss", "accuracy", "val_loss", "val_accuracy"))
    return f"epoch {record['epoch']} of {record['epochs']}: {', '.join(figures)}"


def resumed(record: dict) -> str:
    """Where an interrupted training resumes."""
    return f"resuming the training in epoch {record['epoch']} after {count(record['after_steps'], 'step')}"


def trained(job: HeadJob, head: HeadResult) -> str:
    """The result of a training."""
    place = "is current" if head.is_promoted else "is not current"
    figures = {name: getattr(head, name) for name in ("val_accuracy", "val_loss", "test_accuracy", "test_loss")}
    known = ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if value is not None)
    left_out = (
        f" It is fitted without {count(head.left_out, 'training sample')}, chosen by digest: the solver takes no more."
    )
    return f"{job.spec.kind} head {head.name}: {known}; it {place}{left_out if head.left_out else ''}"


def remarks_on(jobs: Sequence[HeadJob], heads: Sequence[HeadResult]) -> list[str]:
    """Of several heads of a run: which one is used, a warning for each that diverged, and advice."""
    if len(heads) == 1:
        return []
    best = chosen(heads)
    diverged = [f"warning: {head.diverged}" for place, head in enumerate(heads) if head.diverged and place != best]
    advice = overconfident(jobs, heads)
    times = ", ".join(
        f"{job.spec.kind} val_accuracy {head.val_accuracy:.4f} in {duration(head.train_seconds)}"
        for job, head in zip(jobs, heads, strict=True)
    )
    standing = "current" if heads[best].is_promoted else "better"
    return [f"{times}; the {jobs[best].spec.kind} head is the {standing} one", *diverged, *([advice] if advice else [])]


def tuning(job: HeadJob) -> str:
    """What fine-tuning trains, and how fast."""
    return f"fine-tuning the head and the network from {job.spec.fine_tune} on, learning rate {job.spec.fine_tune_learning_rate:g}"


def tuned(job: HeadJob, model: HeadResult) -> str:
    """The result of fine-tuning."""
    figures = f"val_accuracy {model.val_accuracy:.4f}, val_loss {figure(model.val_loss)}"
    return f"model {model.name}: {figures}; the whole network is in {job.space.store.head(model.name) / WHOLE}"


def reported(head: HeadResult, logs: Path) -> str:
    """Where the report of a new head is, or the log that says why there is none."""
    return f"report: {head.report}" if head.report else f"warning: the head has no report; the log in {logs} says why"


def studied(job: HeadJob, head: HeadResult) -> str:
    """The result of one training of a study."""
    return (
        f"{combination(job.spec)}, seed {job.seed}: val_accuracy {head.val_accuracy:.4f}, "
        f"val_loss {figure(head.val_loss)}, {duration(head.train_seconds)}{'; diverged' if head.diverged else ''}"
    )


def figure(value: float | None) -> str:
    """Format a loss or an accuracy, which may not be finite."""
    return f"{value:.4f}" if is_finite(value) else "not finite"


def combination(of: HeadSpec | Row | Cell) -> str:
    """The name of a combination that a study compares."""
    if not of.has_epochs:
        return f"{of.label} head, {features(of.standardize)} features"
    return f"{of.label} head, batch size {of.batch_size}, {features(of.standardize)} features, {of.sampling}"


def features(standardize: bool) -> str:
    """The name of a kind of features in a study."""
    return "standardised" if standardize else "raw"


def shares(chunks: list[ChunkResult]) -> str:
    """Each stage's share of the children's time."""
    totals: Counter[str] = Counter()
    for chunk in chunks:
        totals.update(chunk.seconds)
    whole = totals.total()
    return ", ".join(f"{stage} {seconds / whole:.0%}" for stage, seconds in totals.items()) if whole else ""


def spent(seconds: dict[str, float]) -> str:
    """How long each step of a run took."""
    return ", ".join(
        f"{name} {value:.1f} s" if value < 10 else f"{name} {duration(value)}" for name, value in seconds.items()
    )


def duration(seconds: float) -> str:
    """Format a duration in a suitable unit."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def to_predict(inbox: InboxRecord, plan: PredictionPlan) -> str:
    """What a prediction run has to do."""
    parts = [f"{plan.images:,} to compute"]
    parts += [f"{plan.stored:,} with stored features"] if plan.stored else []
    parts += [f"{plan.known:,} predicted before"] if plan.known else []
    parts += [f"{inbox.missing:,} missing"] if inbox.missing else []
    others = f"; ignored {count(inbox.ignored, 'other file')}" if inbox.ignored else ""
    return f"{count(inbox.files, 'image')}: {', '.join(parts)}{others}"


def predicted(outcome: Predictions) -> str:
    """The result of a prediction run."""
    found = ", ".join(
        f"{number:,} {name}" for name, number in sorted(outcome.predicted.items(), key=lambda one: -one[1])[:10]
    )
    left = "".join(
        f", {number:,} {kind}"
        for kind, number in (("quarantined", outcome.quarantined), ("pending", outcome.pending))
        if number
    )
    pace = f" ({outcome.predict_images_per_second:,.1f} images/s)" if outcome.predict_images_per_second else ""
    other = f"; warning: {outcome.fallback}" if outcome.fallback else ""
    return f"{count(outcome.images, 'image')}: {found or 'none predicted'}{left}{pace}; written to {outcome.out}{other}"


def evaluated(outcome: Evaluation) -> list[str]:
    """The result of an evaluation."""
    low, high = outcome.accuracy_interval
    left = "".join(
        f", {number:,} {kind}"
        for kind, number in (("quarantined", outcome.quarantined), ("pending", outcome.pending))
        if number
    )
    lines = [
        f"accuracy {outcome.accuracy:.4f} on {count(outcome.images, 'image')} (95 % interval {low:.4f} to {high:.4f}), "
        f"log loss {figure(outcome.log_loss)}, calibration error {outcome.calibration_error:.4f}{left}"
    ]
    if outcome.trained_on:
        lines += [
            f"warning: the head was trained on {outcome.trained_on:,} of these images, so its figures are better than on new images"
        ]
    lines += [outcome.verdict] if outcome.verdict else []
    lines += [f"warning: {outcome.fallback}"] if outcome.fallback else []
    return [*lines, f"report: {outcome.report}"]
