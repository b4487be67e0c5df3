"""Train, find and promote heads: features out of storage, gradients in vision. Runs in a child; no Prefect here."""

import json
import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from storage.durable import make_folder, replace
from storage.errors import InputError, StorageError
from storage.layout import Store, canonical, current_head, promote_head, sha256
from storage.samples import SampleTable, pin
from storage.stream import FeatureStream
from storage.versions import Version, read_version
from tasks.chunk import peak_rss_mb
from tasks.records import HeadJob, HeadResult
from vision.head import HeadSpec
from vision.training import evaluate, train

logger = logging.getLogger(__name__)

VALIDATION_BATCH = 256


def head_name(fingerprint: str, data_digest: str, spec: HeadSpec, seed: int) -> str:
    """Where a head lies: a hash of all that makes it, untouched by how the store keeps its rows."""
    record = {"fingerprint": fingerprint, "data_digest": data_digest, "head": spec.record(), "seed": seed}
    return sha256(canonical(record))[:32]


def find_head(store: Store, name: str) -> HeadResult | None:
    """The head of this name if it was trained to its end: head.json is written last."""
    if not (store.head(name) / "head.keras").exists():
        return None
    try:
        record = json.loads((store.head(name) / "head.json").read_text())
        metrics = record["metrics"]
        return HeadResult(name, False, current_head(store) == name, **metrics, history=tuple(record["history"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def check_trainable(classes: dict[str, dict[str, int]], num_classes: int) -> None:
    """Refuse data that no head can be trained on: one class only, or a split without usable images."""
    if num_classes < 2:
        raise InputError(
            f"training needs at least two classes, these images have {num_classes}; "
            "the features are stored: add class folders, or pass --extract-only"
        )
    for split in ("train", "validation"):
        if not classes.get(split):
            raise InputError(
                f"training needs images in the {split} split, there is none; the features are stored: "
                "add images, change --validation-fraction, or pass --extract-only"
            )


def index_order(wanted: tuple[str, ...] | None, found: tuple[str, ...]) -> tuple[str, ...]:
    """The classes in index order: as wanted, which must name exactly those found, or sorted."""
    if wanted is None:
        return tuple(sorted(found))
    if sorted(wanted) != sorted(found):
        raise InputError(f"--classes names {', '.join(wanted)}; the images have {', '.join(sorted(found))}")
    return wanted


def train_head(job: HeadJob, report: Callable[[dict], None]) -> HeadResult:
    """The head of `job`, found or trained, and promoted if it is not worse than the current one.

    `report` hears of each epoch. Raises StoreDamaged for shards that are not what the version says.
    """
    store = job.space.store
    version = read_version(store, job.version)
    data = _Data.pinned(job, version)
    result = find_head(store, job.name)
    if result is None:
        result = _train(job, version, data, report)
    return _promoted(job, result, data)


@dataclass(frozen=True)
class _Data:
    """The streams of one training; `folder` holds the sample tables."""

    training: SampleTable
    validation: SampleTable
    folder: Path

    @classmethod
    def pinned(cls, job: HeadJob, version: Version) -> "_Data":
        folder = job.space.store.head(job.name)
        make_folder(folder)
        tables = [pin(job.space.store, version, split, job.spec.classes, folder) for split in ("train", "validation")]
        return cls(*tables, folder)

    def stream(self, job: HeadJob, table: SampleTable, seed: int | None) -> FeatureStream:
        batch_size = job.spec.batch_size if seed is not None else VALIDATION_BATCH
        return FeatureStream(job.space.store, table, batch_size, seed, job.spec.shuffle_memory_mb)


def _train(job: HeadJob, version: Version, data: _Data, report: Callable[[dict], None]) -> HeadResult:
    training = data.stream(job, data.training, job.seed)
    trained = train(
        job.spec,
        training.kind.shape,
        np.dtype(training.kind.dtype).name,
        training,
        data.stream(job, data.training, None),
        data.stream(job, data.validation, None),
        job.seed,
        lambda epoch, logs: report({"epoch": epoch + 1, "epochs": job.spec.epochs, **logs}),
    )
    epochs = len(trained.history)
    metrics = {
        "epochs": epochs,
        "val_accuracy": trained.val_accuracy,
        "val_loss": trained.val_loss,
        "train_seconds": trained.seconds,
        "train_samples_per_second": epochs * len(data.training) / trained.seconds,
    }
    temporary = data.folder / "writing.keras"
    trained.model.save(temporary)  # type: ignore[attr-defined]
    replace(data.folder / "head.keras", temporary.read_bytes())
    temporary.unlink()
    record = {
        "format_version": 1,
        "fingerprint": job.space.fingerprint,
        "features": job.space.spec.record() | {"shape": list(training.kind.shape)},
        "version": version.number,
        "data_digest": version.data_digest,
        "classes": list(job.spec.classes),
        "samples": {"train": len(data.training), "validation": len(data.validation)},
        "head": job.spec.record(),
        "seed": job.seed,
        "metrics": metrics,
        "history": trained.history,
        "environment": environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    replace(data.folder / "head.json", json.dumps(record, indent=1).encode())
    return HeadResult(job.name, True, False, **metrics, peak_rss_mb=peak_rss_mb(), history=trained.history)


def _promoted(job: HeadJob, result: HeadResult, data: _Data) -> HeadResult:
    """Move heads/current to this head unless the current one does better on the same validation rows.

    A current head of another feature space or of other classes is not comparable and gives way.
    """
    store = job.space.store
    current = current_head(store)
    is_better = current == job.name
    if not is_better:
        is_better = _current_accuracy(job, current, data) <= result.val_accuracy
    if is_better and current != job.name:
        promote_head(store, job.name)
    return HeadResult(**vars(result) | {"is_promoted": is_better, "peak_rss_mb": peak_rss_mb()})


def _current_accuracy(job: HeadJob, current: str | None, data: _Data) -> float:
    """Accuracy of the current head on the validation rows of this training; -1 where it has none."""
    if current is None:
        return -1.0
    folder = job.space.store.head(current)
    rows = data.stream(job, data.validation, None)
    try:
        record = json.loads((folder / "head.json").read_text())
        if (record["fingerprint"], record["classes"]) != (job.space.fingerprint, list(job.spec.classes)):
            return -1.0
        _, accuracy = evaluate(str(folder / "head.keras"), rows.kind.shape, np.dtype(rows.kind.dtype).name, rows)
    except StorageError:
        raise
    except Exception as error:  # a file that is gone, cut or of a strange Keras, in as many types
        logger.warning("the current head %s cannot be used and gives way: %s", current, error)
        return -1.0
    return accuracy


def environment() -> dict[str, str]:
    """The versions that a head was made with."""
    import keras
    import tensorflow as tf

    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }
