"""The report of a head: which picture lies behind each mistake, read for the page. Runs in a child; no Prefect here."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from storage.durable import replace
from storage.heads import report_file
from storage.place import Place, place
from storage.samples import SampleTable, files_of
from storage.versions import Version
from storage.words import date, visible
from tasks.chunk import read_image
from tasks.records import HeadJob
from vision.evaluation import Evaluation
from vision.images import ImageError
from vision.report.page import Report, Shown, render
from vision.report.thumbnails import thumbnail

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What has become of a file since it was listed; any other code is of bytes that cannot be decoded.
FAULTS = {
    "vanished": "the file is gone",
    "changed": "the file has other bytes by now",
    "permission": "the file may not be read",
    "read_error": "the file could not be read",
}


def write_report(
    job: HeadJob,
    version: Version,
    record: Mapping[str, Any],
    validation: Evaluation,
    table: SampleTable,
    training: SampleTable | None = None,
) -> str | None:
    """Put the report beside a head and return where it lies.

    record: what head.json says. table: the samples that `validation` is of. The head is worth more than its report: where
    that cannot be made there is a warning and None, whatever the reason.
    """
    store = job.space.store
    try:
        shown = tuple(_shown(job, version, validation, table))
        report = Report(
            name=job.name,
            record=record,
            classes=tuple(map(visible, job.spec.classes)),
            images=visible(job.space.images),
            committed=date(version.created),
            trained=date(record["created"]),
            mistakes=shown,
        )
        path = report_file(store, job.name)
        replace(path, render(report).encode())
        return str(path)
    except Exception as error:
        logger.warning("head %s has no report: %s: %s", job.name, type(error).__name__, error)
        return None


def _shown(job: HeadJob, version: Version, validation: Evaluation, table: SampleTable) -> Iterator[Shown]:
    """The mistakes with their files, as they are now."""
    root, names = place(job.space.images) if job.space.images else None, tuple(map(visible, job.spec.classes))
    samples = [mistake.sample for mistake in validation.mistakes]
    files = files_of(job.space.store, version, "validation", table, samples)
    for mistake, (path, digest) in zip(validation.mistakes, files, strict=True):
        picture, fault = _made(root, path, digest, lambda data: thumbnail(data, job.space.spec.exif))
        yield Shown(
            own=names[mistake.label],
            predicted=names[mistake.predicted],
            own_score=mistake.own_score,
            score=mistake.score,
            path=visible(path),
            thumbnail=picture,
            fault=fault,
        )


def _made(root: Place | None, path: bytes, digest: bytes, make: Callable[[bytes], T]) -> tuple[T | None, str]:
    """What is made of the image with this digest, or None and why there is nothing."""
    if root is None:
        return None, "its folder was not at hand"
    try:
        return make(read_image(root, path, digest)), ""
    except ImageError as error:
        return None, FAULTS.get(error.code, "the file cannot be decoded")
