"""The outcome of a run: one record, printed as one line of JSON."""

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from storage.errors import InputError
from storage.finite import finite
from storage.text import as_flags
from workers.jobs.choice import chosen
from workers.jobs.records import ChunkResult, HeadJob, HeadResult, PlanRecord, VersionRecord

# Fields that are summed over the rounds of a run.
SUMMED = (
    "new",
    "changed",
    "moved",
    "relabelled",
    "removed",
    "extracted",
    "extracted_views",
    "adopted",
    "shards_written",
)
# Figures of a training.
FIGURES = (
    "train_seconds",
    "train_samples_per_second",
    "epochs",
    "val_accuracy",
    "val_loss",
    "test_accuracy",
    "test_loss",
)


@dataclass(frozen=True)
class Outcome:
    """The JSON line, key by key. None means that there is nothing to report.

    extracted: images with newly extracted features. extracted_views: pictures that went through the network for them,
    one per image unless there are variants; extract_images_per_second counts these. extract_seconds: from the first
    chunk's first read, with a warm engine, until the last shard is durable. first_read: that moment, in seconds since the
    epoch; the JSON line has the seconds from the command's start to it, as warmup_seconds. engine: computed the features of this run.
    fallback: why an engine other than the chosen one did. head: the current one of those that the run trained or found, else the
    best; the figures of the training are its. heads: all of them, each with its figures. promotion: why the head is or is not the current one, if it
    was compared. model, model_*: the network that was fine-tuned from the head, and its figures. peak_rss_mb: of the
    largest process of the run, including children. stage_seconds: of each step; None if there was nothing to do.
    """

    images: int
    classes: int
    new: int
    changed: int
    moved: int
    relabelled: int
    removed: int
    unchanged: int
    pending: int
    ignored: int
    quarantined: int
    extracted: int
    extracted_views: int
    adopted: int
    shards_written: int
    version: int | None
    fingerprint: str
    extract_seconds: float | None
    extract_images_per_second: float | None
    first_read: float | None = None
    engine: str | None = None
    fallback: str | None = None
    train_seconds: float | None = None
    train_samples_per_second: float | None = None
    epochs: int | None = None
    val_accuracy: float | None = None
    val_loss: float | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None
    head: str | None = None
    heads: tuple[dict[str, Any], ...] = ()
    promoted: bool | None = None
    promotion: str | None = None
    model: str | None = None
    model_val_accuracy: float | None = None
    model_val_loss: float | None = None
    fine_tune_seconds: float | None = None
    peak_rss_mb: float | None = None
    elapsed_seconds: float | None = None
    stage_seconds: dict[str, float] | None = None

    def after(self, earlier: "Outcome") -> "Outcome":
        """Combine this round of a run with the rounds before it."""
        summed = {name: getattr(self, name) + getattr(earlier, name) for name in SUMMED}
        seconds = [each.extract_seconds for each in (earlier, self) if each.extract_seconds is not None]
        engines = [each.engine for each in (earlier, self) if each.engine]
        return replace(
            self,
            **summed,
            first_read=earlier.first_read or self.first_read,
            unchanged=min(self.unchanged, earlier.unchanged),
            extract_seconds=sum(seconds) if seconds else None,
            extract_images_per_second=summed["extracted_views"] / sum(seconds) if seconds else None,
            engine=", ".join(dict.fromkeys(engines)) or None,
            fallback=self.fallback or earlier.fallback,
            peak_rss_mb=max(each.peak_rss_mb or 0 for each in (earlier, self)) or None,
        )

    def with_times(self, seconds: dict[str, float]) -> "Outcome":
        """Add the seconds of each step."""
        return replace(self, stage_seconds={name: round(value, 3) for name, value in seconds.items()})

    def with_heads(self, jobs: Sequence[HeadJob], heads: Sequence[HeadResult]) -> "Outcome":
        """Add the results of the trainings."""
        head = heads[chosen(heads)]
        return replace(
            self,
            **{name: getattr(head, name) for name in FIGURES},
            head=head.name,
            heads=tuple(
                {"head": each.name, "kind": job.spec.kind, "promoted": each.is_promoted}
                | {name: getattr(each, name) for name in FIGURES}
                for job, each in zip(jobs, heads, strict=True)
            ),
            promoted=head.is_promoted,
            promotion=as_flags(head.promotion) if head.promotion else None,
            peak_rss_mb=max(self.peak_rss_mb or 0, *(each.peak_rss_mb for each in heads)),
        )

    def with_model(self, model: HeadResult | None) -> "Outcome":
        """Add the result of fine-tuning. None, if none was requested, adds nothing."""
        if model is None:
            return self
        return replace(
            self,
            model=model.name,
            model_val_accuracy=model.val_accuracy,
            model_val_loss=model.val_loss,
            fine_tune_seconds=model.train_seconds,
            peak_rss_mb=max(self.peak_rss_mb or 0, model.peak_rss_mb),
        )

    def line(self, elapsed_seconds: float) -> dict:
        """The JSON record, with floats rounded to four digits and null for values that are not finite."""
        begun = time.time() - elapsed_seconds
        warmup_seconds = None if self.first_read is None else self.first_read - begun
        return line_of(asdict(self) | {"warmup_seconds": warmup_seconds}, elapsed_seconds)


def line_of(record: dict[str, Any], elapsed_seconds: float) -> dict[str, Any]:
    """The JSON record of an outcome: floats rounded to four digits, null for values that are not finite.

    peak_rss_mb becomes that of this process if it is larger.
    """
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    record = record | {"elapsed_seconds": elapsed_seconds, "peak_rss_mb": max(own, record["peak_rss_mb"] or 0)}
    return _rounded(finite(record))


def _rounded(value: Any) -> Any:
    """Floats with four digits, also within lists and objects."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def outcome_of(plan: PlanRecord, chunks: list[ChunkResult], version: VersionRecord) -> Outcome:
    """The outcome of extraction and commit."""
    own = {field.name for field in fields(Outcome)}
    extracted = sum(chunk.images - chunk.quarantined - sum(chunk.skipped.values()) for chunk in chunks)
    views = sum(chunk.rows for chunk in chunks)
    seconds = max(c.ended for c in chunks) - min(c.started for c in chunks) if chunks else None
    return Outcome(
        **{name: count for name, count in plan.counts.items() if name in own},
        images=version.counts["images"],
        classes=len(version.class_names),
        pending=version.counts["pending"],
        quarantined=version.counts["quarantined"],
        extracted=extracted,
        extracted_views=views,
        shards_written=len({chunk.shard for chunk in chunks}),
        version=version.number,
        fingerprint=plan.space.fingerprint,
        extract_seconds=seconds,
        extract_images_per_second=views / seconds if seconds else None,
        first_read=min((c.started for c in chunks), default=None),
        engine=", ".join(sorted({chunk.engine for chunk in chunks})) or None,
        fallback="; ".join(sorted({chunk.fallback for chunk in chunks if chunk.fallback})) or None,
        peak_rss_mb=max((chunk.peak_rss_mb for chunk in chunks), default=None),
    )


def check_converged(head: HeadResult | None) -> None:
    """Raise InputError if a training diverged. Its head is kept, so the same training does not run again."""
    if head is not None and head.diverged:
        raise InputError(head.diverged)


@contextmanager
def reporting(outcome: Outcome) -> Iterator[None]:
    """Attach the outcome so far to an error of the block, so that the JSON line can still be written."""
    try:
        yield
    except Exception as error:
        error.outcome = outcome  # type: ignore[attr-defined]
        raise
