"""Artifacts: what the Prefect UI shows of a run. A failed artifact never fails the run."""

import logging
import re
import time
from collections.abc import Mapping
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from storage.heads.registry import read_head
from storage.maintenance.quarantine import quarantined
from storage.manifest.versions import read_version
from storage.reasons import MEANINGS
from storage.text import count, date_of, visible
from vision.training.head import epochs_before
from workers.jobs.evaluate import Evaluated
from workers.jobs.inspect_data import Inspected
from workers.jobs.records import HeadJob, HeadResult, Space, VersionRecord

logger = logging.getLogger(__name__)

# A larger confusion matrix is unreadable in the UI.
LARGEST_MATRIX = 20
MOST_QUARANTINED = 500  # rows of the table in the UI; `python -m storage quarantine` lists all


UPDATE_EVERY_SECONDS = 2.0


class ProgressArtifact:
    """A progress bar in the UI, from 0 to 1. It updates at most every UPDATE_EVERY_SECONDS, and at the end."""

    def __init__(self, key: str, description: str):
        self._id: UUID | None = _try(create_progress_artifact, progress=0.0, key=key, description=description)

        self._updated = time.monotonic()

    def update(self, fraction: float) -> None:
        """Set the bar to `fraction`, from 0 to 1, if an update is due."""
        is_due = fraction >= 1 or time.monotonic() - self._updated >= UPDATE_EVERY_SECONDS
        if self._id is not None and is_due:
            self._updated = time.monotonic()
            _try(update_progress_artifact, self._id, progress=100 * fraction)


def show_version(version: VersionRecord) -> None:
    """Create a table of the version's usable images by split and class, and of the pending and quarantined ones."""
    rows = [
        {"split": split, "class": name, "images": number}
        for split, by_class in sorted(version.classes.items())
        for name, number in sorted(by_class.items())
    ]
    others = {name: number for name, number in version.counts.items() if name in ("pending", "quarantined")}
    rows += [{"split": "", "class": name, "images": number} for name, number in others.items()]
    _try(create_table_artifact, table=rows, key="version", description=f"Usable images of version {version.number}")


def show_quarantine(space: Space, version: VersionRecord) -> None:
    """Create a table of the quarantined images with their reasons, if there are any."""
    if version.counts["quarantined"]:
        _try(_create_quarantine_artifact, space, version)


def _create_quarantine_artifact(space: Space, version: VersionRecord) -> None:
    bad = quarantined(read_version(space.store, version.number), space.store)
    rows = [
        {
            "path": visible(row["path"]),
            "reason": row["reason"],
            "message": MEANINGS.get(row["reason"], ""),
            "attempts": row["attempts"],
            "first seen": date_of(row["first_seen_ns"]),
            "last tried": date_of(row["last_seen_ns"]),
        }
        for row in bad.slice(0, MOST_QUARANTINED).to_pylist()
    ]
    others = f"; the table has {MOST_QUARANTINED} of them" if bad.num_rows > MOST_QUARANTINED else ""
    create_table_artifact(table=rows, key="quarantine", description=f"Unusable images: {bad.num_rows:,}{others}")


def show_head(job: HeadJob, head: HeadResult) -> None:
    """Create a summary of the training: the head, its metrics, the scores of each class, and each epoch."""
    _try(_create_head_artifact, job, head)


def show_study(name: str, rows: list[dict[str, str]], description: str) -> None:
    """Create the table of a study. name: of its flow."""
    _try(create_table_artifact, table=rows, key=name, description=description)


def show_maintenance(store: str, done: dict[str, list[str]]) -> None:
    """Create a summary of the maintenance of a store. done: step → lines."""
    steps = (f"## {step}\n\n" + "\n".join(f"* {_name(line)}" for line in lines) for step, lines in done.items())
    markdown = "\n\n".join([f"# Store {_name(store)}", *steps])
    _try(create_markdown_artifact, key="store-maintenance", markdown=markdown, description=store)


def _create_head_artifact(job: HeadJob, head: HeadResult) -> None:
    record = read_head(job.space.store, head.name)
    rounds = "fitted by a solver" if head.epochs is None else count(head.epochs, "epoch")
    epochs = [
        (number, *(_figure(logs[name]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")))
        for number, logs in enumerate(head.history, 1 + epochs_before(job.spec.record()))
    ]
    scores = [
        (_name(name), *(_figure(scores[key]) for key in ("precision", "recall")), scores["images"])
        for name, scores in record["per_class"].items()
    ]
    what = "Network" if job.spec.fine_tune else "Head"
    standing = f"It is {'' if head.is_promoted else 'not '}the current head."
    if job.spec.fine_tune:
        standing = f"Fine-tuned from {job.spec.fine_tune} on, with head `{record['base']}`."
    create_markdown_artifact(
        key="fine-tuning" if job.spec.fine_tune else "training",
        description=f"{what} {head.name}",
        markdown=f"""# {what} `{head.name}`

{"Trained by this run" if head.is_new else "Trained by an earlier run"} on version {job.version}, classes {", ".join(map(_name, job.spec.classes))}.
{standing}

**Validation accuracy {head.val_accuracy:.4f}**, loss {_figure(head.val_loss)}{_test(head)}; {rounds},
{head.train_samples_per_second:.0f} samples/s.

{_table(("class", "precision", "recall", "images"), scores)}

{_confusion(job.spec.classes, record["confusion"])}

{_table(("epoch", "loss", "accuracy", "val_loss", "val_accuracy"), epochs) if epochs else ""}
""",
    )


def _confusion(classes: tuple[str, ...], confusion: list[list[int]]) -> str:
    if len(classes) > LARGEST_MATRIX:
        return f"head.json has the confusion matrix of the {len(classes)} classes, under the key confusion."
    return _matrix(classes, confusion)


def _matrix(classes: tuple[str, ...], confusion: list[list[int]]) -> str:
    names = tuple(map(_name, classes))
    rows = [(f"**{name}**", *counts) for name, counts in zip(names, confusion, strict=True)]
    return "Confusion matrix, with true classes in rows and predicted classes in columns:\n\n" + _table(
        ("", *names), rows
    )


def _test(head: HeadResult) -> str:
    return (
        ""
        if head.test_accuracy is None
        else f"; test accuracy {head.test_accuracy:.4f}, loss {_figure(head.test_loss)}"
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _table(header: tuple[str, ...], rows: list[tuple]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _name(name: str) -> str:
    """The name on one line, with Markdown characters escaped."""
    return re.sub(r"([\\`*_{}\[\]<>&|~#!$])", r"\\\1", " ".join(name.split()))


def _try(create, *args, **kwargs):
    try:
        return create(*args, **kwargs)
    except Exception as error:  # the server may be busy or gone, but the work goes on
        logger.warning("artifact %s was not written: %s", kwargs.get("key", create.__name__), error)
        return None


def show_predictions(predicted: Mapping[str, int], statuses: Mapping[str, int], out: str) -> None:
    """Create a table of the images of a prediction run by class, and of those without a class."""
    rows = [{"class": name, "status": "ok", "images": number} for name, number in sorted(predicted.items())]
    rows += [{"class": "", "status": name, "images": number} for name, number in statuses.items() if name != "ok"]
    _try(create_table_artifact, table=rows, key="predictions", description=f"Predictions in {out}")


def show_evaluation(found: Evaluated, source: str, report: str) -> None:
    """Create a summary of an evaluation: the figures of each head, the scores of each class, and the confusion matrix."""
    _try(_create_evaluation_artifact, found, source, report)


def _create_evaluation_artifact(found: Evaluated, source: str, report: str) -> None:
    heads = [
        (
            f"`{each.head[:8]}`",
            _figure(each.accuracy),
            " to ".join(map(_figure, each.accuracy_interval)),
            _figure(each.log_loss),
            _figure(each.calibration_error),
        )
        for each in found.heads
    ]
    scores = [
        (_name(name), *(_figure(each[key]) for key in ("precision", "recall", "f1")), each["images"])
        for name, each in found.per_class.items()
    ]
    header = ("head", "accuracy", "95 % interval", "log loss", "calibration error")
    verdict = f"{found.comparison['verdict']}.\n\n" if found.comparison else ""
    classes = tuple(found.per_class)
    matrix = _matrix(classes, found.confusion) if len(classes) <= LARGEST_MATRIX else ""
    create_markdown_artifact(
        key="evaluation",
        description=f"Evaluation of head {found.heads[0].head}",
        markdown=f"""# Evaluation on {_name(source)}

{count(found.images, "image")}; the report with pictures is in `{report}`.

{_table(header, heads)}

{verdict}{_table(("class", "precision", "recall", "F1", "images"), scores)}

{matrix}
""",
    )


def show_inspection(found: Inspected, report: str) -> None:
    """Create a table of what an inspection found."""
    rows = [{"finding": kind, "images": number} for kind, number in found.findings.items()]
    _try(create_table_artifact, table=rows, key="inspection", description=f"Version {found.version}: {report}")
