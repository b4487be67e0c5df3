"""The outcome of an inspection: one record, printed as one line of JSON."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from flows.console.outcome import line_of
from storage.text import count, first_few
from workers.jobs.inspect_data import Inspected


@dataclass(frozen=True)
class Inspection:
    """The JSON line, key by key.

    findings: kind → number of images. measured: pictures that this run measured; the others were known. unmeasured, unread, unjudged: as in
    Inspected.
    """

    images: int
    classes: int
    version: int
    fingerprint: str
    findings: dict[str, int]
    measured: int
    unmeasured: int
    unread: int
    unjudged: tuple[str, ...]
    far_above: float | None
    out: str
    report: str
    peak_rss_mb: float
    stage_seconds: dict[str, float]
    elapsed_seconds: float | None = None

    def line(self, elapsed_seconds: float) -> dict[str, Any]:
        """The JSON record, with floats rounded to four digits."""
        return line_of(asdict(self), elapsed_seconds)


def inspected(outcome: Inspection) -> Iterator[str]:
    """What an inspection found, for people."""
    found = [f"{number:,} {kind}" for kind, number in outcome.findings.items() if number]
    yield f"found in {count(outcome.images, 'image')}: {', '.join(found) or 'nothing'}"
    if outcome.unmeasured or outcome.unread:
        yield f"warning: {count(max(outcome.unmeasured, outcome.unread), 'image')} cannot be read now, so the pictures were not looked at"
    if outcome.unjudged:
        yield f"labels of {first_few(outcome.unjudged)} are not judged: too few images"
    yield f"report: {outcome.report}"


def outcome_of(
    found: Inspected, fingerprint: str, measured: int, out: str, report: str, seconds: dict[str, float]
) -> Inspection:
    """The outcome of the steps of a run."""
    same = {name: getattr(found, name) for name in ("images", "classes", "version", "findings", "unmeasured", "unread")}
    return Inspection(
        **same,
        fingerprint=fingerprint,
        measured=measured,
        unjudged=found.unjudged,
        far_above=found.far_above,
        out=out,
        report=report,
        peak_rss_mb=found.peak_rss_mb,
        stage_seconds={name: round(value, 3) for name, value in seconds.items()},
    )
