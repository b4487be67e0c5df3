"""The report of a head, with the image behind each mistake. Runs in a child; no Prefect here."""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from storage.backend.atomic import replace
from storage.backend.paths import Place, place
from storage.heads.registry import report_file
from storage.manifest.versions import Version
from storage.reading.inspections import noted_inspection
from storage.reading.sample_files import files_of
from storage.reading.samples import SampleTable
from storage.text import date, visible
from vision.pixels.augmentation import Augmentation, variant_keys
from vision.pixels.variants import image_keys
from vision.report.augmentation_samples import Augmented, Sample, in_words, pictures
from vision.report.page import Report, Shown, render
from vision.training.evaluation import Evaluation
from vision.training.head import HeadSpec
from workers.jobs.image_stream import epoch_keys
from workers.jobs.pictures import made, shown_mistakes
from workers.jobs.records import HeadJob

logger = logging.getLogger(__name__)

SAMPLES = 4  # how many training images the report shows augmented, and how many augmentations of each


def write_report(
    job: HeadJob,
    version: Version,
    record: Mapping[str, Any],
    validation: Evaluation,
    table: SampleTable,
    training: SampleTable | None = None,
) -> str | None:
    """Write the report beside its head and return its path.

    record: the content of head.json. table: the samples of `validation`. training: the samples of the training images
    without variants; the report shows some of them augmented. A head is worth more than its report, so any error
    becomes a warning, and the result is None.
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
            augmented=_augmented(job, version, len(record["history"]), training),
            inspection=visible(noted_inspection(store, version.number)),
        )
        path = report_file(store, job.name)
        replace(path, render(report).encode())
        return str(path)
    except Exception as error:
        logger.warning("head %s has no report: %s: %s", job.name, type(error).__name__, error)
        return None


def _shown(job: HeadJob, version: Version, validation: Evaluation, table: SampleTable) -> Iterator[Shown]:
    """The mistakes, each with its file as it is now."""
    samples = [mistake.sample for mistake in validation.mistakes]
    files = files_of(job.space.store, version, "validation", table, samples)
    return shown_mistakes(validation.mistakes, files, job.spec.classes, _root(job), job.space.spec)


def _augmented(job: HeadJob, version: Version, epochs: int, table: SampleTable | None) -> Augmented | None:
    """How training images were augmented, with some examples; None if they were not. epochs: how many were trained."""
    spec = job.spec
    from_images = spec.train_on == "images" or bool(spec.fine_tune)
    if not (table and spec.augment and (from_images or spec.variants > 1)):
        return None
    augmentation = Augmentation.parse(spec.augment)
    numbers = (_passes(spec, len(table), epochs) if from_images else range(1, spec.variants))[:SAMPLES]

    def keys(digest: bytes) -> np.ndarray:
        if not from_images:
            return variant_keys(augmentation.digest, digest, numbers)
        return np.concatenate([epoch_keys(job.seed, number, image_keys([digest])) for number in numbers])

    period = "pass" if spec.steps_per_epoch else "epoch"
    return Augmented(
        augmentation=in_words(augmentation),
        views=0 if from_images else spec.variants,
        period=period,
        names=("original", *(f"{period} {n + 1}" if from_images else f"variant {n}" for n in numbers)),
        samples=tuple(_samples(job, version, table, augmentation, keys)),
    )


def _passes(spec: HeadSpec, samples: int, epochs: int) -> range:
    """The passes over the training samples, counted from 0, that a training of so many epochs began."""
    first = 0 if spec.fine_tune else spec.initial_epoch
    steps_a_pass = -(-samples // spec.batch_size)
    steps = spec.steps_per_epoch or steps_a_pass
    return range(first * steps // steps_a_pass, -(-(first + epochs) * steps // steps_a_pass))


def _samples(
    job: HeadJob,
    version: Version,
    table: SampleTable,
    augmentation: Augmentation,
    keys: Callable[[bytes], np.ndarray],
) -> Iterator[Sample]:
    """A few training images, evenly spread over the table. keys: digest → keys of the augmentations to show."""
    root, space, count = _root(job), job.space, min(SAMPLES, len(table))
    places = [(2 * n + 1) * len(table) // (2 * count) for n in range(count)]
    for at, (path, digest) in zip(places, files_of(space.store, version, "train", table, places), strict=True):
        make = partial(pictures, spec=space.spec, augmentation=augmentation, keys=keys(digest))
        found, fault = made(root, path, digest, make)
        own = visible(job.spec.classes[table.samples["class"][at]])
        yield Sample(own, visible(path), found, fault)


def _root(job: HeadJob) -> Place | None:
    """The image folder, if it is known."""
    return place(job.space.images) if job.space.images else None
