"""The report of a study: table and advice as lines, and the files study.md, study.csv, study.json and study.png."""

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from flows.console.messages import combination, features
from flows.study.chart import draw
from flows.study.study import Study
from storage.backend.atomic import make_folder, replace
from storage.finite import finite
from storage.text import as_flags, columns, count
from vision.study.advice import Advice, Cell, advise, cells
from vision.study.confidence import Figures, lower_rate
from vision.study.trainings import Row
from vision.training.head import LEARNING_RATES

HEADER = (
    *("head", "batch", "features", "sampling"),
    *("loss", "accuracy", "val_loss", "val_accuracy", "last"),
    *("s/epoch", "ms/step", "s", "faults"),
)
SOURCES = {
    "linear": "Goyal et al. 2017, arXiv:1706.02677, for SGD",
    "square root": "Malladi et al. 2022, arXiv:2205.10287, for adaptive optimizers",
}


@dataclass(frozen=True)
class StudyOutcome:
    """The JSON line, key by key. The figures are the means of the combination that the advice chooses. They are null if
    every combination diverged, since there is then no advice.

    head: its kind. head_pooling, l2, batch_size, sampling: null for heads that have none. trained: number of trainings that this run did. faulty: number of trainings that diverged or predict one class only.
    """

    store: str
    fingerprint: str
    version: int
    trainings: int
    trained: int
    faulty: int
    head: str | None
    head_pooling: str | None
    l2: float | None
    batch_size: int | None
    standardize: bool | None
    sampling: str | None
    val_accuracy: float | None
    val_accuracy_spread: float | None
    epoch_seconds: float | None
    out: str
    peak_rss_mb: float | None = None

    def line(self, elapsed_seconds: float) -> dict[str, Any]:
        record = asdict(self) | {"elapsed_seconds": elapsed_seconds}
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in finite(record).items()}


def report(study: Study, folder: Path, trained: int = 0, peak_rss_mb: float | None = None) -> tuple[StudyOutcome, str]:
    """Write the files of a study whose heads all exist. Returns its outcome, and the table and advice as text."""
    rows = study.rows()
    advice = advise(rows)
    make_folder(folder)
    replace(folder / "study.csv", _csv(rows).encode())
    replace(folder / "study.json", _json(study, rows, advice).encode())
    replace(folder / "study.png", draw(cells(rows)))
    replace(folder / "study.md", _markdown(study, rows, advice).encode())
    chosen = advice.chosen if advice else None
    outcome = StudyOutcome(
        store=study.space.root,
        fingerprint=study.space.fingerprint,
        version=study.version.number,
        trainings=len(rows),
        trained=trained,
        faulty=sum(bool(row.faults) for row in rows),
        **_combination(chosen),
        val_accuracy=chosen.mean("val_accuracy") if chosen else None,
        val_accuracy_spread=chosen.spread if chosen else None,
        epoch_seconds=chosen.epoch_seconds if chosen else None,
        out=str(folder),
        peak_rss_mb=peak_rss_mb,
    )
    files = f"{folder}: study.md, study.csv, study.json, study.png"
    title = f"{count(len(rows), 'training')} on version {study.version.number}:"
    return outcome, "\n".join([*study.notes(), title, *_lines(rows), *advice_lines(rows, advice), files])


def _combination(cell: Cell | None) -> dict[str, Any]:
    """The fields of a combination; None for what it does not have."""
    if cell is None:
        return dict.fromkeys(("head", "head_pooling", "l2", "batch_size", "standardize", "sampling"))
    row = cell.rows[0]
    return {
        "head": row.kind,
        "head_pooling": row.head_pooling if row.kind in ("pooled", "logistic") else None,
        "l2": row.l2,
        "batch_size": cell.batch_size or None,
        "standardize": cell.standardize,
        "sampling": cell.sampling or None,
    }


def table(rows: list[Row]) -> list[dict[str, str]]:
    """The tutorial's table: one row per combination, with means over its seeds (medians for times)."""
    return [dict(zip(HEADER, _cells_of(cell), strict=True)) for cell in cells(rows)]


def _cells_of(cell: Cell) -> tuple[str, ...]:
    loss, accuracy, val_loss, val_accuracy, last = (
        _figure(cell.mean(name), cell.has_epochs)
        for name in ("loss", "accuracy", "val_loss", "val_accuracy", "last_val_accuracy")
    )
    faulty = sum(bool(row.faults) for row in cell.rows)
    return (
        cell.label,
        str(cell.batch_size or ""),
        features(cell.standardize),
        cell.sampling,
        loss,
        accuracy,
        val_loss,
        val_accuracy if cell.spread is None else f"{val_accuracy} ± {cell.spread:.4f}",
        last,
        f"{cell.epoch_seconds:.2f}" if cell.has_epochs else "",
        f"{cell.step_ms:.1f}" if cell.has_epochs else "",
        f"{cell.seconds:.1f}",
        str(faulty) if faulty else "",
    )


def _figure(value: float, is_known: bool = True) -> str:
    """A figure. Not known are the losses of a logistic head whose strength was given."""
    return f"{value:.4f}" if math.isfinite(value) else str(value) if is_known else ""


def _lines(rows: list[Row]) -> list[str]:
    return columns([HEADER, *(tuple(line.values()) for line in table(rows))], "lrllrrrrrrrrr")


def advice_lines(rows: list[Row], advice: Advice | None) -> list[str]:
    """The advice in sentences, and a warning for each faulty training."""
    return [*(_advice_lines(rows, advice) if advice else [_no_advice(rows)]), *_warnings(rows)]


def _no_advice(rows: list[Row]) -> str:
    rate = rows[0].learning_rate
    lower = min(rate / 10, LEARNING_RATES[rows[0].optimizer])
    return f"no advice: every combination diverged at a learning rate of {rate:g}; try --learning-rate {lower:g}"


def _advice_lines(rows: list[Row], advice: Advice) -> list[str]:
    chosen, best = advice.chosen, advice.best
    text = f"use {combination(chosen)} (`{_flags(chosen)}`): {_measured(chosen)}, {chosen.seconds:.1f} s"
    if chosen != best:
        text += f"; it is the fastest within one standard error ({best.standard_error:.4f}) of the best"
        text += f" (best: {combination(best)}, {_measured(best)})"
    rates = ", ".join(f"{size}: {rate:.2g}" for size, rate in advice.learning_rates.items())
    lines = [text]
    if rates:
        lines.append(
            f"learning rates to try with other batch sizes ({advice.rule} rule, {SOURCES[advice.rule]}; "
            f"a rule of thumb): {rates}"
        )
    lines += _overconfident(rows)
    if not advice.has_learnt:
        lines.append(
            f"warning: no combination is clearly better than always predicting the largest class ({rows[0].largest_share:.4f})"
        )
    return lines


def _flags(cell: Cell) -> str:
    """The flags of a combination for the pipeline."""
    row = cell.rows[0]
    flags = [f"--head {row.kind}"]
    flags += [f"--head-pooling {row.head_pooling}"] if row.kind in ("pooled", "logistic") else []
    flags += [f"--l2 {row.l2:g}"] if row.l2 and not row.is_searched else []
    flags += [f"--batch-size {row.batch_size}", f"--sampling {row.sampling}"] if row.has_epochs else []
    return " ".join([*flags, *([] if row.standardize else ["--no-standardize"])])


def _overconfident(rows: list[Row]) -> list[str]:
    """Advice on the kinds of heads that are too sure beside the best logistic head."""
    own = [cell for cell in cells(rows) if all(row.is_finite for row in cell.rows)]
    beside = max(
        (cell for cell in own if not cell.has_epochs), key=lambda cell: cell.mean("val_accuracy"), default=None
    )
    found = {}
    for cell in own:
        if beside is not None and cell.has_epochs:
            figures = (Figures(each.mean("val_accuracy"), each.mean("val_loss")) for each in (cell, beside))
            found[cell.rows[0].kind] = lower_rate(cell.rows[0].kind, *figures, cell.rows[0].learning_rate)
    return [as_flags(text) for text in found.values() if text]


def _warnings(rows: list[Row]) -> list[str]:
    faulty = [row for row in rows if row.faults]
    lines = [f"warning: {combination(row)}, seed {row.seed}: {'; '.join(row.faults)}" for row in faulty]
    if faulty:
        lines.append("to avoid this, try standardised features, a lower learning rate or a larger batch size")
    return lines


def _measured(cell: Cell) -> str:
    spread = "one seed" if cell.spread is None else f"spread {cell.spread:.4f} over {len(cell.rows)} seeds"
    return f"val_accuracy {cell.mean('val_accuracy'):.4f} ({spread})"


def _markdown(study: Study, rows: list[Row], advice: Advice | None) -> str:
    sizes = {split: sum(by_class.values()) for split, by_class in study.version.classes.items()}
    spec = study.jobs[0].spec
    first = next((row for row in rows if row.has_epochs), None)
    epochs = (
        f"{first.optimizer} with learning rate {first.learning_rate:g}, {count(spec.epochs, 'epoch')}, "
        if first
        else ""
    )
    heading = (
        f"Version {study.version.number} of feature space `{study.space.fingerprint}`: {sizes['train']:,} training "
        f"images, {sizes['validation']:,} validation images, {count(len(study.version.class_names), 'class', 'classes')}. "
        f"{', '.join(dict.fromkeys(row.kind for row in rows))} heads, {epochs}{count(len(rows), 'training')}."
    )
    lines = [HEADER, ("---",) * len(HEADER), *(tuple(line.values()) for line in table(rows))]
    return "\n".join(
        [
            f"# {study.title}",
            "",
            heading,
            "",
            *("| " + " | ".join(line) + " |" for line in lines),
            "",
            "Figures are means over the seeds, at the kept epoch (the lowest validation loss), with the standard deviation between",
            "seeds after ±. `last` is the validation accuracy of the last epoch, `s` the seconds of a whole training. Times of epochs and",
            "steps are medians over the epochs after the first. `loss` and `accuracy` of a logistic head are those of the cross-validation.",
            "",
            "![Validation accuracy and time by batch size](study.png)",
            "",
            *(f"* {line}" for line in (*study.notes(), *advice_lines(rows, advice))),
            "",
        ]
    )


def _csv(rows: list[Row]) -> str:
    """One line per training; semicolons separate its faults."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Row))
    for row in rows:
        writer.writerow({**vars(row), "faults": "; ".join(row.faults)}.values())
    return text.getvalue()


def _json(study: Study, rows: list[Row], advice: Advice | None) -> str:
    """The trainings and the advice as JSON; null for values that are not finite."""
    record = {
        "fingerprint": study.space.fingerprint,
        "features": study.space.spec.record(),
        "version": study.version.number,
        "classes": study.version.classes,
        "heads": list(dict.fromkeys(row.kind for row in rows)),
        "advice": advice
        and {
            **_combination(advice.chosen),
            "rule": advice.rule,
            "learning_rates": advice.learning_rates,
        },
        "trainings": [vars(row) for row in rows],
    }
    return json.dumps(finite(record), indent=1, allow_nan=False)
