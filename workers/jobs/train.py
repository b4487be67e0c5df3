"""Train heads on features from storage, with the training loop of vision. Runs in a child; no Prefect here."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime

from storage.backend.lock import alone
from storage.backend.paths import is_local
from storage.errors import StorageError, StoreDamaged
from storage.finite import finite
from storage.heads.checkpoints import read_checkpoint, remove_checkpoint, write_checkpoint
from storage.heads.pins import unpin
from storage.heads.registry import keep_logs, mark_unranked, model_file, working_folder, write_head
from storage.layout import Store
from storage.manifest.versions import Version, read_version
from vision.backbones.sources import load_tensors
from vision.errors import HeadError
from vision.training.checkpoint import Checkpoint, CheckpointError
from vision.training.convex import train_logistic
from vision.training.evaluation import evaluate
from vision.training.fine_tuning import build_tunable, build_whole
from vision.training.head_model import load_head
from vision.training.keeper import Keeping
from vision.training.loop import Trained, train
from workers.jobs.divergence import divergence
from workers.jobs.extract import peak_rss_mb
from workers.jobs.head_identity import base_name, find_head
from workers.jobs.head_record import environment, left_out, per_class, test_metrics
from workers.jobs.head_report import write_report
from workers.jobs.lacking import data_name, lacking
from workers.jobs.promote import promoted
from workers.jobs.records import HeadJob, HeadResult
from workers.jobs.training_data import Samples

logger = logging.getLogger(__name__)


def train_head(job: HeadJob, report: Callable[[dict], None]) -> HeadResult:
    """Find or train the head of `job`, and promote it if it is not worse than the current one.

    report: receives progress records (vision/training/loop.py). Raises StoreDamaged if shards disagree with the version.
    """
    with _working_alone(job):
        return _found_or_trained(job, report)


def _working_alone(job: HeadJob) -> AbstractContextManager[None]:
    """Lock the training folder, which is local. A store on disk has a lock of its own; an object store has none."""
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
    """The checkpoint of an interrupted training, or None, and the number of the version to train on.

    A resumed training stays on its version, because another version of the same data may order its rows differently.
    """
    store = job.space.store
    if (kept := read_checkpoint(store, job.name)) is None:
        return None, job.version
    arrays, record = kept
    try:
        version = read_version(store, record["version"])
        return Checkpoint(record["epoch"], record["step"], arrays, record["figures"]), version.number
    except (FileNotFoundError, StorageError) as error:
        logger.warning(
            "head %s: training starts over, because its version %s is gone: %s", job.name, record["version"], error
        )
        return None, job.version


def _fit(
    job: HeadJob, version: Version, data: Samples, report: Callable[[dict], None], checkpoint: Checkpoint | None
) -> Trained:
    if not job.spec.has_epochs:
        return train_logistic(job.spec, data.for_solver(), job.seed, report)
    store = job.space.store

    def keep(epoch: int, step: int, arrays, figures: dict) -> None:
        record = {"version": version.number, "epoch": epoch, "step": step, "figures": figures}
        write_checkpoint(store, job.name, arrays, record)

    if checkpoint is None:
        for log in (data.folder / "logs").glob("**/*.*"):
            log.unlink()  # left by a training that died or is repeated
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
    """The file of the head to continue from. Raises HeadError if it is missing, StoreDamaged if it is damaged."""
    try:
        return str(model_file(store, base))
    except FileNotFoundError:
        raise HeadError(f"head {base} is missing") from None


def _tunable(job: HeadJob, head):
    """The blocks to tune and a trained head, as one model."""
    spec, tensors = job.spec, load_tensors(job.space.spec, job.space.weights)
    optimizer, rate = spec.optimizer, spec.fine_tune_learning_rate
    return build_tunable(job.space.spec, tensors, head, spec.fine_tune, optimizer, rate, job.seed)


def _train(
    job: HeadJob, version: Version, data: Samples, report: Callable[[dict], None], checkpoint: Checkpoint | None
) -> HeadResult:
    """Train the head, test it, and write it with its report."""
    trained = _fit_from(job, version, data, report, checkpoint)
    store, record = job.space.store, _record(job, version, data, trained)
    temporary = data.folder / "writing.keras"
    _whole(job, trained.model).save(temporary)
    keep_logs(store, job.name)
    write_head(store, job.name, record, temporary)
    remove_checkpoint(store, job.name)
    report_path = write_report(job, version, record, trained.validation, data.validation, training=data.training)
    figures = finite({**record["metrics"], **test_metrics(record["test"]), "history": trained.history})
    diverged, left = divergence(store, job.name, record), left_out(record)
    return HeadResult(job.name, True, False, **figures, report=report_path, diverged=diverged, left_out=left)


def _fit_from(
    job: HeadJob, version: Version, data: Samples, report: Callable[[dict], None], checkpoint: Checkpoint | None
) -> Trained:
    """Resume at the checkpoint. Training starts over if the checkpoint does not fit."""
    if checkpoint is not None:
        report({"resumed": True, "epoch": checkpoint.epoch + 1, "after_steps": checkpoint.step})
    try:
        return _fit(job, version, data, report, checkpoint)
    except CheckpointError as error:
        logger.warning("head %s: training starts over: %s", job.name, error)
        return _fit(job, version, data, report, None)
    except HeadError as error:
        raise StoreDamaged(f"{error}; train the head that it continues from again, with `force_retrain`") from error


def _record(job: HeadJob, version: Version, data: Samples, trained: Trained) -> dict:
    """The content of head.json, which docs/store.md describes."""
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
        "metrics": {
            "epochs": len(trained.history) if job.spec.has_epochs else None,
            "val_accuracy": trained.validation.accuracy,
            "val_loss": trained.validation.loss,
            "train_seconds": trained.seconds,
            "train_samples_per_second": trained.samples / trained.seconds,
        },
        "per_class": per_class(job.spec.classes, trained.validation),
        "confusion": trained.validation.confusion.tolist(),
        "test": _tested(job, data, trained.model),
        "history": trained.history,
        "epoch_seconds": [round(seconds, 3) for seconds in trained.epoch_seconds],
        "environment": environment(job.spec.has_epochs),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if trained.regularization:
        record["regularization"] = trained.regularization
    if trained.diverged:
        record["diverged"] = vars(trained.diverged)
    if job.spec.fine_tune:
        record |= {"base": _base(job, version), "start": trained.start}
    if job.spec.variants > 1:
        record |= {"lacking": lacking(job.space.store, version, job.spec).samples}
    return record


def _whole(job: HeadJob, model):
    """The model to save: the head, or after fine-tuning the whole network from pixels on."""
    if not job.spec.fine_tune:
        return model
    return build_whole(job.space.spec, load_tensors(job.space.spec, job.space.weights), model)


def _tested(job: HeadJob, data: Samples, model: object) -> dict | None:
    """The figures of the kept head on the test images; None if there are none."""
    if data.test is None:
        return None
    rows = data.to_evaluate("test", data.test)
    found = evaluate(model, rows, data.shape, data.dtype, len(job.spec.classes))
    return {
        "accuracy": found.accuracy,
        "loss": found.loss,
        "images": len(data.test),
        "per_class": per_class(job.spec.classes, found),
        "confusion": found.confusion.tolist(),
    }
