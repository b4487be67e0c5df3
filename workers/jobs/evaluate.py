"""Evaluate heads on the predictions of labelled images. No Prefect here."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.atomic import writing
from storage.backend.paths import place
from storage.errors import InputError, StorageError
from storage.finite import finite
from storage.predictions.pieces import read_pieces
from storage.reasons import FILE_FAULTS
from storage.text import count, visible
from vision.prediction.metrics import Compared, Measured, compare, measure
from vision.report.evaluation_page import EvaluationReport, HeadFigures, render
from vision.training.evaluation import Mistake, worst_mistakes
from workers.jobs.labelled import LabelledRecord, trained_on
from workers.jobs.opened_head import OpenedHead
from workers.jobs.pictures import shown_mistakes
from workers.jobs.prediction_plan import PredictionPlan

REPORT, FIGURES = "report.html", "evaluation.json"


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found, as JSON types.

    images: those that every head could predict, and that the figures are about. reasons: code → number of the others. heads: the
    figures of the head, and those of the head that it is compared with. per_class: class → scores. confusion: the true class in
    rows, in index order. calibration: the ranges of probability. comparison: None without a second head.
    """

    images: int
    quarantined: int
    pending: int
    reasons: dict[str, int]
    heads: tuple[HeadFigures, ...]
    per_class: dict[str, dict[str, Any]]
    confusion: list[list[int]]
    calibration: list[dict[str, Any]]
    comparison: dict[str, Any] | None
    mistakes: list[dict[str, Any]]


@dataclass(frozen=True)
class _Scored:
    """The predictions of a head. probabilities: (n, classes) float32 in the order of the first head's classes, NaN without one."""

    probabilities: np.ndarray
    reasons: pa.Array


def evaluate(
    listed: LabelledRecord, heads: Sequence[OpenedHead], plans: Sequence[PredictionPlan], out: Path, source: str
) -> Evaluated:
    """Evaluate one head, or compare two, and write `report.html` and `evaluation.json` to the folder `out`.

    plans: those of the heads' predictions, which must be there. source: what was evaluated, for the reader. Raises InputError if
    no image could be predicted.
    """
    files, classes = listed.files_table, heads[0].classes
    scored = [_scored(files, head, plan, classes) for head, plan in zip(heads, plans, strict=True)]
    is_ok = ~np.any([np.isnan(each.probabilities[:, 0]) for each in scored], axis=0)
    reasons = _reasons(scored, is_ok)
    if not is_ok.any():
        raise InputError(f"none of the {len(is_ok):,} images can be predicted: {reasons}")
    labels = pc.index_in(files["class"], pa.array(classes, pa.string())).to_numpy()[is_ok]
    probabilities = [each.probabilities[is_ok] for each in scored]
    measured = [measure(labels, each) for each in probabilities]
    compared = compare(labels, *probabilities) if len(heads) == 2 else None
    worst = worst_mistakes(np.flatnonzero(is_ok), labels, probabilities[0])
    figures = tuple(
        _figures(head, each, trained_on(listed, head, plan.space))
        for head, each, plan in zip(heads, measured, plans, strict=True)
    )
    found = _evaluated(reasons, figures, measured[0], compared, worst, files, classes)
    page = render(_report(listed, heads[0], found, measured, compared, worst, source))
    write_both(out, json.dumps(finite(asdict(found)), indent=1, ensure_ascii=False, allow_nan=False), page)
    return found


def write_both(out: Path, figures: str, page: str) -> None:
    """Write the files of an evaluation. If one cannot be written, earlier ones stay, so that both are always of one run."""
    with writing(out / FIGURES) as figures_file, writing(out / REPORT) as page_file:
        for file, text in ((figures_file, figures), (page_file, page)):
            file.write(text.encode())
            file.flush()  # a full disk shows here, before either file appears


def _scored(files: pa.Table, head: OpenedHead, plan: PredictionPlan, classes: tuple[str, ...]) -> _Scored:
    """The prediction of each file, by its digest."""
    known = read_pieces(Path(plan.pieces), len(head.classes), is_last_word=True)
    at = pc.index_in(files["digest"].combine_chunks(), known.digests)
    reasons = pc.coalesce(files["reason"].combine_chunks(), known.reasons.take(at))
    if lost := pc.sum(pc.and_(at.is_null(), reasons.is_null())).as_py():
        raise StorageError(f"the predictions of {count(lost, 'image')} are no longer in {plan.pieces}; run again")
    found = np.full((files.num_rows, len(classes)), np.nan, np.float32)
    found[at.is_valid().to_numpy(zero_copy_only=False)] = known.probabilities(at.drop_null().to_numpy())
    return _Scored(found[:, [head.classes.index(name) for name in classes]], reasons)


def _reasons(scored: Sequence[_Scored], is_ok: np.ndarray) -> dict[str, int]:
    """Reason code → number of images that some head could not predict."""
    first = pc.coalesce(*(each.reasons for each in scored))
    return dict(sorted(Counter(first.filter(pa.array(~is_ok)).to_pylist()).items()))


def _figures(head: OpenedHead, found: Measured, seen: int | None) -> HeadFigures:
    return HeadFigures(
        head=head.name,
        version=head.version,
        fingerprint=head.fingerprint,
        correct=found.correct,
        accuracy=found.accuracy,
        accuracy_interval=found.interval,
        log_loss=found.log_loss,
        calibration_error=found.calibration_error,
        impossible=found.impossible,
        trained_on=seen,
    )


def _evaluated(
    reasons: dict[str, int],
    figures: tuple[HeadFigures, ...],
    found: Measured,
    compared: Compared | None,
    worst: Sequence[Mistake],
    files: pa.Table,
    classes: tuple[str, ...],
) -> Evaluated:
    pending = sum(number for code, number in reasons.items() if code in FILE_FAULTS)
    paths = files["path"].take(pa.array([each.sample for each in worst], pa.int64())).to_pylist()
    names = tuple(each.head[:8] for each in figures)
    return Evaluated(
        images=found.images,
        quarantined=sum(reasons.values()) - pending,
        pending=pending,
        reasons=reasons,
        heads=figures,
        per_class={name: asdict(scores) for name, scores in zip(classes, found.classes, strict=True)},
        confusion=found.confusion.tolist(),
        calibration=[asdict(each) for each in found.bins],
        comparison=asdict(compared) | {"verdict": compared.verdict(*names)} if compared else None,
        mistakes=[
            {
                "path": visible(path),
                "class": classes[each.label],
                "predicted": classes[each.predicted],
                "probability": each.score,
                "class_probability": each.own_score,
            }
            for each, path in zip(worst, paths, strict=True)
        ],
    )


def _report(
    listed: LabelledRecord,
    head: OpenedHead,
    found: Evaluated,
    measured: Sequence[Measured],
    compared: Compared | None,
    worst: Sequence[Mistake],
    source: str,
) -> EvaluationReport:
    places = pa.array([each.sample for each in worst], pa.int64())
    wrong = listed.files_table.take(places)
    files = list(zip(wrong["path"].to_pylist(), wrong["digest"].to_pylist(), strict=True))
    root = place(listed.root) if listed.root else None
    return EvaluationReport(
        source=source,
        split=listed.split or "evaluated",
        images=visible(listed.root) if listed.root else "the image folder",
        classes=tuple(map(visible, head.classes)),
        heads=found.heads,
        measured=tuple(measured),
        compared=compared,
        verdict=found.comparison["verdict"] if found.comparison else "",
        mistakes=tuple(shown_mistakes(worst, files, head.classes, root, head.spec)),
        reasons=found.reasons,
        unknown={visible(name): number for name, number in listed.unknown.items()},
    )
