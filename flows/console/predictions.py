"""The outcome of a prediction run: one record, printed as one line of JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from flows.console.outcome import line_of
from workers.jobs.opened_head import OpenedHead
from workers.jobs.prediction_plan import InboxRecord, PredictionPlan
from workers.jobs.records import ChunkResult
from workers.jobs.written_predictions import Written


@dataclass(frozen=True)
class Predictions:
    """The JSON line, key by key.

    images: rows of this run; rows: of the whole file. ok, quarantined, pending: images by status. computed, stored, known: unique images
    that went through the network, whose features were stored, and that an interrupted or earlier run had predicted. predicted: class → number of
    images. predict_seconds: from the first chunk's first read, with a warm engine, to the last chunk's end.
    """

    images: int
    rows: int
    ok: int
    quarantined: int
    pending: int
    ignored: int
    computed: int
    stored: int
    known: int
    classes: int
    class_names: tuple[str, ...]
    predicted: dict[str, int]
    head: str
    version: int
    fingerprint: str
    out: str
    engine: str | None
    fallback: str | None
    predict_seconds: float | None
    predict_images_per_second: float | None
    peak_rss_mb: float
    stage_seconds: dict[str, float] | None = None
    elapsed_seconds: float | None = None

    def line(self, elapsed_seconds: float) -> dict[str, Any]:
        """The JSON record, with floats rounded to four digits."""
        return line_of(asdict(self), elapsed_seconds)


def predictions_of(
    inbox: InboxRecord,
    plan: PredictionPlan,
    head: OpenedHead,
    chunks: list[ChunkResult],
    written: Written,
    out: str,
    peak_rss_mb: float,
) -> Predictions:
    """The outcome of the steps of a run."""
    seconds = max(c.ended for c in chunks) - min(c.started for c in chunks) if chunks else None
    return Predictions(
        images=sum(written.statuses.values()),
        rows=written.rows,
        **{status: written.statuses.get(status, 0) for status in ("ok", "quarantined", "pending")},
        ignored=inbox.ignored,
        computed=sum(chunk.rows for chunk in chunks),
        stored=plan.stored,
        known=plan.known,
        classes=len(head.classes),
        class_names=head.classes,
        predicted=written.predicted,
        head=head.name,
        version=head.version,
        fingerprint=head.fingerprint,
        out=out,
        engine=", ".join(sorted({chunk.engine for chunk in chunks})) or None,
        fallback="; ".join(sorted({chunk.fallback for chunk in chunks if chunk.fallback})) or None,
        predict_seconds=seconds,
        predict_images_per_second=sum(chunk.images for chunk in chunks) / seconds if seconds else None,
        peak_rss_mb=max([peak_rss_mb, *(chunk.peak_rss_mb for chunk in chunks)]),
    )
