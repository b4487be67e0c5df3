"""Export a head and its network as one model: the job of `flows/export.py`."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.backend.paths import place
from vision.errors import ExportError
from vision.export.description import Description
from vision.export.formats import FORMATS, FormatName, Probabilities
from vision.specs import FeatureSpec
from workers.jobs.extract import peak_rss_mb
from workers.jobs.opened_head import OpenedHead, open_head
from workers.jobs.records import Space

# The largest difference of two runtimes to Keras' own probabilities that rounding explains.
TOLERANCE = 1e-4
SAMPLES = 8  # pictures that the check compares


@dataclass(frozen=True)
class ExportJob:
    """Export a head to the new file or folder `path`. space: of the head, with weights. threads: of TensorFlow."""

    space: Space
    head: str
    format: FormatName
    path: str
    threads: int

    @classmethod
    def of(cls, record: dict) -> "ExportJob":
        space = record["space"]
        return cls(**record | {"space": Space(**space | {"spec": FeatureSpec(**space["spec"])})})


@dataclass(frozen=True)
class ExportResult:
    """size_bytes: of the file, or of all files in the folder. max_difference: the largest difference of its probabilities to
    Keras' own on generated pictures; None if the library to load the format is not installed."""

    size_bytes: int
    max_difference: float | None
    export_seconds: float
    peak_rss_mb: float


def export_model(job: ExportJob) -> ExportResult:
    """Write the export, load it again, and compare it with the Keras model that it was made from.

    Raises ExportError if their probabilities differ, SpecError if the format cannot have a layer of the head.
    """
    from vision.runtime import prepare_tensorflow

    prepare_tensorflow(job.threads)
    began, path, target = time.monotonic(), Path(job.path), FORMATS[job.format]
    head = open_head(place(job.space.root), job.head)
    model = whole_model(head, job.space)
    target.write(model, path, description_of(head, job.space))
    seconds = time.monotonic() - began
    difference = _difference(model, target.load(path), head.spec.image_size)
    if difference is not None and not difference <= TOLERANCE:
        raise ExportError(
            f"`format={job.format}`: the export gives other probabilities than Keras, by up to {difference:g}; it was not written"
        )
    return ExportResult(_size(path), difference, round(seconds, 3), peak_rss_mb())


def whole_model(head: OpenedHead, space: Space):
    """The Keras model from pixels to the probabilities of all classes."""
    from vision.backbones.sources import load_tensors
    from vision.export.whole import build_classifier, with_all_classes
    from vision.training.head_model import load_head

    loaded = load_head(str(head.model))
    if head.is_whole:
        return with_all_classes(loaded, f"{head.spec.backbone}_with_head")
    return build_classifier(head.spec, load_tensors(head.spec, space.weights), loaded)


def description_of(head: OpenedHead, space: Space) -> Description:
    """What the export says about itself."""
    return Description(head.classes, head.name, head.version, head.fingerprint, head.spec, space.weights)


def _difference(model, exported: Probabilities | None, size: int) -> float | None:
    if exported is None:
        return None
    pixels = sample_pixels(size)
    return float(np.abs(exported(pixels) - np.asarray(model(pixels, training=False))).max())


def sample_pixels(size: int) -> np.ndarray:
    """(SAMPLES, size, size, 3) uint8: coarse coloured patches of growing contrast. A head is less sure of them than of noise."""
    patches = np.random.default_rng(0).uniform(-1, 1, (SAMPLES, 8, 8, 3))
    contrast = np.linspace(0, 127, SAMPLES).reshape(-1, 1, 1, 1)
    at = np.arange(size) * 8 // size
    return (128 + contrast * patches)[:, at][:, :, at].astype(np.uint8)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
