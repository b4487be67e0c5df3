"""The outcome of an evaluation: one record, printed as one line of JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.console.outcome import line_of
from workers.jobs.evaluate import REPORT, Evaluated
from workers.jobs.labelled import LabelledRecord
from workers.jobs.opened_head import OpenedHead
from workers.jobs.records import ChunkResult

FIGURES = ("correct", "accuracy", "accuracy_interval", "log_loss", "calibration_error", "trained_on")
LARGEST_MATRIX = 20  # classes; evaluation.json has a larger matrix


@dataclass(frozen=True)
class Evaluation:
    """The JSON line, key by key.

    images: those that the figures are about. left_out: images of classes that the head does not know. trained_on: images that the
    head was trained on; None if that is not known. confusion: None for more than LARGEST_MATRIX classes. against and the keys
    after it: None without a second head. only_head, only_against: images that only one of the heads predicts correctly.
    """

    images: int
    correct: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    log_loss: float
    calibration_error: float
    classes: int
    class_names: tuple[str, ...]
    per_class: dict[str, dict[str, Any]]
    confusion: list[list[int]] | None
    calibration: list[dict[str, Any]]
    split: str | None
    version: int | None
    head: str
    head_version: int
    fingerprint: str
    trained_on: int | None
    quarantined: int
    pending: int
    reasons: dict[str, int]
    ignored: int
    left_out: int
    against: str | None
    against_accuracy: float | None
    against_log_loss: float | None
    against_calibration_error: float | None
    only_head: int | None
    only_against: int | None
    p_value: float | None
    verdict: str | None
    computed: int
    stored: int
    out: str
    report: str
    engine: str | None
    fallback: str | None
    peak_rss_mb: float
    stage_seconds: dict[str, float] | None = None
    elapsed_seconds: float | None = None

    def line(self, elapsed_seconds: float) -> dict[str, Any]:
        """The JSON record, with floats rounded to four digits but the p-value, which may be smaller."""
        return line_of(asdict(self), elapsed_seconds) | {"p_value": self.p_value}


def evaluation_of(
    listed: LabelledRecord,
    head: OpenedHead,
    found: Evaluated,
    stored: int,
    chunks: Sequence[ChunkResult],
    out: Path,
    peak_rss_mb: float,
) -> Evaluation:
    """The outcome of the steps of a run."""
    return Evaluation(
        **{name: getattr(found.heads[0], name) for name in FIGURES},
        **{name: getattr(found, name) for name in ("images", "quarantined", "pending", "reasons")},
        classes=len(head.classes),
        class_names=head.classes,
        per_class=found.per_class,
        confusion=found.confusion if len(head.classes) <= LARGEST_MATRIX else None,
        calibration=found.calibration,
        split=listed.split or None,
        version=listed.version,
        head=head.name,
        head_version=head.version,
        fingerprint=head.fingerprint,
        ignored=listed.ignored,
        left_out=sum(listed.unknown.values()),
        **_against(found),
        computed=sum(chunk.rows for chunk in chunks),
        stored=stored,
        out=str(out),
        report=str(out / REPORT),
        engine=", ".join(sorted({chunk.engine for chunk in chunks})) or None,
        fallback="; ".join(sorted({chunk.fallback for chunk in chunks if chunk.fallback})) or None,
        peak_rss_mb=max([peak_rss_mb, *(chunk.peak_rss_mb for chunk in chunks)]),
    )


def _against(found: Evaluated) -> dict[str, Any]:
    other, compared = found.heads[1] if len(found.heads) > 1 else None, found.comparison or {}
    return {
        "against": other and other.head,
        "against_accuracy": other and other.accuracy,
        "against_log_loss": other and other.log_loss,
        "against_calibration_error": other and other.calibration_error,
        "only_head": compared.get("only_first"),
        "only_against": compared.get("only_second"),
        "p_value": compared.get("p_value"),
        "verdict": compared.get("verdict"),
    }
