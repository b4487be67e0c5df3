"""Train, find and promote heads: features out of storage, gradients in vision. Runs in a child; no Prefect here."""

import logging
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime

from storage.checkpoints import read_checkpoint, remove_checkpoint, write_checkpoint
from storage.classes import Counts, only
from storage.errors import InputError, StorageError, StoreDamaged
from storage.finite import finite
from storage.heads import keep_logs, mark_unranked, model_file, read_head, unpin, working_folder, write_head
from storage.layout import Store, canonical, current_head, sha256
from storage.lock import alone
from storage.place import is_local
from storage.versions import Version, read_version
from storage.words import quoted
from tasks.chunk import peak_rss_mb
from tasks.divergence import divergence
from tasks.lacking import data_name, lacking
from tasks.promotion import promoted
from tasks.records import HeadJob, HeadResult
from tasks.report import write_report
from tasks.training_data import Samples
from vision.checkpoint import Checkpoint, CheckpointError
from vision.evaluation import Evaluation, HeadError, evaluate, load_head, precision_and_recall
from vision.fine_tuning import build_tunable, build_whole
from vision.head import HeadSpec
from vision.specs import BACKBONES
from vision.training import Keeping, Trained, train
from vision.weights import load_weights

logger = logging.getLogger(__name__)


def head_name(fingerprint: str, data_digest: str, spec: HeadSpec, seed: int) -> str:
    """Where a head lies: a hash of all that makes it, untouched by how the store keeps its rows.

    data_digest: the `data_name` of what it is trained on.
    """
    record = {"fingerprint": fingerprint, "data_digest": data_digest, "head": spec.record(), "seed": seed}
    return sha256(canonical(record))[:32]


def base_name(fingerprint: str, data_digest: str, spec: HeadSpec, seed: int) -> str | None:
    """The head that one of `spec` goes on from: of the same making, but not fine-tuned, or trained up to its initial epoch."""
    if spec.fine_tune:
        return head_name(fingerprint, data_digest, spec.untuned, seed)
    if not spec.initial_epoch:
        return None
    begun = replace(spec, epochs=spec.initial_epoch, initial_epoch=0, initial_head="")
    return spec.initial_head or head_name(fingerprint, data_digest, begun, seed)


def find_head(store: Store, name: str) -> HeadResult | None:
    """The head of this name if it was trained to its end and is as it was written."""
    try:
        record = finite(read_head(store, name))  # heads from before have NaN
        metrics = record["metrics"] | _test_metrics(record.get("test"))
        is_current, diverged = current_head(store) == name, divergence(store, name, record)
        return HeadResult(name, False, is_current, **metrics, history=tuple(record["history"]), diverged=diverged)
    except (FileNotFoundError, StorageError, KeyError, TypeError):
        return None


def check_trainable(classes: Counts, names: tuple[str, ...]) -> None:
    """Refuse classes that no head can be trained on: fewer than two, or a split without usable images of them.

    classes: images by split and class. names: those to train on.
    """
    if len(names) < 2:
        given = f"there is {quoted(*names)} alone" if names else "there is none"
        raise InputError(
            f"training needs at least two classes, {given}; "
            "the features are stored: add class folders, or pass --extract-only"
        )
    classes = only(classes, names)
    for split in ("train", "validation"):
        if not classes.get(split):
            raise InputError(
                f"training needs images in the {split} split, there is none; the features are stored: "
                "add images; change --validation-fraction, if no folder or table gives the split; or pass --extract-only"
            )


def train_head(job: HeadJob, report: Callable[[dict], None]) -> HeadResult:
    """The head of `job`, found or trained, and promoted if it is not worse than the current one.

    `report` hears of each epoch, and of steps (vision/training.py). Raises StoreDamaged for shards that are not what the version says.
    """
    with _working_alone(job):
        return _found_or_trained(job, report)


def _working_alone(job: HeadJob) -> AbstractContextManager[None]:
    """On an object store no lock keeps another run of this machine from training the same head in the same folder."""
    store = job.space.store
    folder = working_folder(store, job.name)
    return nullcontext() if is_local(store.root) else alone(folder.with_suffix(".lock"))


def _found_or_trained(job: HeadJob, report: Callable[[dict], None]) -> HeadResult:
    store = job.space.store
    result = None if job.is_forced else find_head(store, job.name)
    checkpoint, number = (None, job.version) if result else _begun(job)
    version = read_version(store, number)
    data = Samples.pinned(job, version)
    if result is None:
        if job.promote == "never":
            mark_unranked(store, job.name)
        result = _train(job, version, data, report, checkpoint)
    result = promoted(job, result, data)
    unpin(store, job.name)
    return replace(result, peak_rss_mb=peak_rss_mb())


def _begun(job: HeadJob) -> tuple[Checkpoint | None, int]:
    """Where a training of this head was when it was stopped, and the version that it has to stay on.

    Another version of the same data may have its rows in another order.
    """
    store = job.space.store
    if (kept := read_checkpoint(store, job.name)) is None:
        return None, job.version
    arrays, record = kept
    try:
        version = read_version(store, record["version"])
        return Checkpoint(record["epoch"], record["step"], arrays, record["figures"]), version.number
    except (FileNotFoundError, StorageError) as error:
        logger.warning("head %s was begun on version %s, which is gone: %s", job.name, record["version"], error)
        return None, job.version


def _fit(
    job: HeadJob, version: Version, data: Samples, report: Callable[[dict], None], checkpoint: Checkpoint | None
) -> Trained:
    store = job.space.store

    def keep(epoch: int, step: int, arrays, figures: dict) -> None:
        record = {"version": version.number, "epoch": epoch, "step": step, "figures": figures}
        write_checkpoint(store, job.name, arrays, record)

    if checkpoint is None:
        for log in (data.folder / "logs").glob("**/*.*"):
            log.unlink()  # of a training that died, or is done again
    base = _base(job, version)
    keeping, logs = Keeping(keep, job.checkpoint_seconds), data.folder / "logs"
    if not job.spec.fine_tune:
        begin_at = _file_of(store, base) if base else None
        return train(job.spec, data.for_training(), job.seed, logs, report, checkpoint, keeping, begin_at)
    spec = replace(job.spec, epochs=job.spec.fine_tune_epochs, initial_epoch=0)
    model = _tunable(job, load_head(_file_of(store, str(base))))
    return train(spec, data.for_training(), job.seed, logs, report, checkpoint, keeping, model=model)


def _base(job: HeadJob, version: Version) -> str | None:
    data = data_name(version.data_digest, lacking(job.space.store, version, job.spec))
    return base_name(job.space.fingerprint, data, job.spec, job.seed)


def _file_of(store: Store, base: str) -> str:
    """The file of the head to go on from. Raises HeadError where that is gone, StoreDamaged where it is damaged."""
    try:
        return str(model_file(store, base))
    except FileNotFoundError:
        raise HeadError(f"the head {base} is gone") from None


def _tunable(job: HeadJob, head):
    """The blocks to be tuned and a trained head as one model."""
    spec, tensors = job.spec, load_weights(BACKBONES[job.space.spec.backbone], job.space.weights)
    optimizer, rate = spec.optimizer, spec.fine_tune_learning_rate
    return build_tunable(job.space.spec, tensors, head, spec.fine_tune, optimizer, rate, job.seed)


def _train(
    job: HeadJob, version: Version, data: Samples, report: Callable[[dict], None], checkpoint: Checkpoint | None
) -> HeadResult:
    if checkpoint is not None:
        report({"resumed": True, "epoch": checkpoint.epoch + 1, "after_steps": checkpoint.step})
    try:
        trained = _fit(job, version, data, report, checkpoint)
    except CheckpointError as error:
        logger.warning("head %s begins anew: %s", job.name, error)
        trained = _fit(job, version, data, report, None)
    except HeadError as error:
        raise StoreDamaged(f"{error}; train the head to go on from again with --force-retrain") from error
    metrics = {
        "epochs": len(trained.history),
        "val_accuracy": trained.validation.accuracy,
        "val_loss": trained.validation.loss,
        "train_seconds": trained.seconds,
        "train_samples_per_second": trained.samples / trained.seconds,
    }
    test = _tested(job, data, trained.model)
    temporary = data.folder / "writing.keras"
    _whole(job, trained.model).save(temporary)
    record = {
        "format_version": 1,
        "fingerprint": job.space.fingerprint,
        "features": job.space.spec.record() | {"shape": list(job.space.spec.shape)},
        "version": version.number,
        "data_digest": version.data_digest,
        "classes": list(job.spec.classes),
        "samples": {"train": len(data.training), "validation": len(data.validation)},
        "head": job.spec.record(),
        "seed": job.seed,
        "metrics": metrics,
        "per_class": _per_class(job.spec.classes, trained.validation),
        "confusion": trained.validation.confusion.tolist(),
        "test": test,
        "history": trained.history,
        "epoch_seconds": [round(seconds, 3) for seconds in trained.epoch_seconds],
        "environment": environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if trained.diverged:
        record["diverged"] = vars(trained.diverged)
    if job.spec.fine_tune:
        record |= {"base": _base(job, version), "start": trained.start}
    if job.spec.variants > 1:
        record |= {"lacking": lacking(job.space.store, version, job.spec).samples}
    keep_logs(job.space.store, job.name)
    write_head(job.space.store, job.name, record, temporary)
    remove_checkpoint(job.space.store, job.name)
    lies_at = write_report(job, version, record, trained.validation, data.validation, training=data.training)
    figures = finite({**metrics, **_test_metrics(test), "history": trained.history})
    diverged = divergence(job.space.store, job.name, record)
    return HeadResult(job.name, True, False, **figures, report=lies_at, diverged=diverged)


def _whole(job: HeadJob, model):
    """What is saved: the head, or, of one that was fine-tuned, the whole network from pixels on."""
    if not job.spec.fine_tune:
        return model
    return build_whole(job.space.spec, load_weights(BACKBONES[job.space.spec.backbone], job.space.weights), model)


def _tested(job: HeadJob, data: Samples, model: object) -> dict | None:
    """How the head that was kept does on the images that had no part in its training; None where there are none."""
    if data.test is None:
        return None
    rows = data.to_evaluate("test", data.test)
    found = evaluate(model, rows, data.shape, data.dtype, len(job.spec.classes))
    return {
        "accuracy": found.accuracy,
        "loss": found.loss,
        "images": len(data.test),
        "per_class": _per_class(job.spec.classes, found),
        "confusion": found.confusion.tolist(),
    }


def _test_metrics(test: dict | None) -> dict[str, float | None]:
    return {f"test_{name}": test and test[name] for name in ("accuracy", "loss")}


def _per_class(classes: tuple[str, ...], found: Evaluation) -> dict[str, dict[str, float | int | None]]:
    scores = precision_and_recall(found.confusion)
    images = found.confusion.sum(axis=1).tolist()
    return {
        name: {"precision": precision, "recall": recall, "images": count}
        for name, (precision, recall), count in zip(classes, scores, images, strict=True)
    }


def environment() -> dict[str, str]:
    """The versions that a head was made with."""
    import keras
    import numpy
    import tensorflow as tf

    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": numpy.__version__,
    }
