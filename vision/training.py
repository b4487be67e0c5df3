"""Training a head, or a model that ends with one, on batches of features."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vision.batches import Batches, Faults, dataset
from vision.checkpoint import Checkpoint, put_back, state, values
from vision.evaluation import Evaluation, evaluate, load_head
from vision.head import HeadSpec, Statistics, balanced_weights, build_head, compile_update, feature_statistics
from vision.training_log import StepLog, keep_rows

REPORT_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class TrainingData:
    """What a head is trained on: features of this shape and stored dtype.

    training: shuffled by the seed. in_table_order: the same rows in a fixed order, for the statistics.
    validation: every image once in a fixed order, for the head that is kept. after_epochs: what is looked at after each
    epoch, of which as many batches as the spec says. class_counts: (classes,) training samples of each class.
    """

    shape: tuple[int, ...]
    dtype: str
    training: Batches
    in_table_order: Batches
    validation: Batches
    after_epochs: Batches
    class_counts: np.ndarray


@dataclass(frozen=True)
class Divergence:
    """Where a loss stopped being finite, both counted from 1. step: None where it is the validation loss."""

    epoch: int
    step: int | None = None


class _Diverged(ArithmeticError):
    """Leaves `fit` at once: a validation of broken weights would tell nothing."""


@dataclass(frozen=True)
class Trained:
    """A trained Keras head, the history of its epochs, and how it does on every validation image once.

    history: one record an epoch with `loss`, `accuracy`, `val_loss`, `val_accuracy`. The weights kept are
    those of the epoch with the lowest validation loss. epoch_seconds: of each epoch's steps, without the validation.
    samples: how many were trained on, over all epochs; seconds: all of it, with what ran before it was resumed.
    start: `val_loss` and `val_accuracy` before the first step, of a model that was given; None of a head.
    diverged: where training stopped because a loss was not finite; that epoch is the last of the history. If no epoch
    before it had a finite validation loss, the initial weights are kept and the loss of `validation` is NaN.
    """

    model: object
    history: tuple[dict[str, float], ...]
    epoch_seconds: tuple[float, ...]
    validation: Evaluation
    samples: int
    seconds: float
    start: dict[str, float] | None = None
    diverged: Divergence | None = None


@dataclass(frozen=True)
class Keeping:
    """Where checkpoints go: `write` gets the arrays one after the other (vision/checkpoint.py) and the record.

    At an epoch's end or between two steps, when `every_seconds` have gone by since the one before.
    """

    write: Callable[[int, int, Iterable[tuple[str, np.ndarray]], dict[str, Any]], None]
    every_seconds: float = 60.0


def train(
    spec: HeadSpec,
    data: TrainingData,
    seed: int,
    log_folder: Path,
    report: Callable[[dict], None] = lambda record: None,
    checkpoint: Checkpoint | None = None,
    keeping: Keeping | None = None,
    base: str | None = None,
    model=None,
) -> Trained:
    """Fit a head of `spec` and keep the weights of its best epoch. Training stops at the first loss that is not finite.

    `log_folder` gets `steps.csv`, `epochs.csv` and TensorBoard's `train/` and `validation/`. `report` hears, at most
    once a second, of the step (`epoch`, `epochs`, `step`, `steps`; epoch 0 is the pass for the
    statistics), and of each epoch's end (`epoch`, `epochs` and the figures of the history).
    checkpoint: go on from there; each step is then what it would have been. base: the saved head to go on from
    at `spec.initial_epoch`, with its optimizer. model: a compiled Keras model to train instead of a head, whose kind,
    optimizer and standardisation are its own and not those of the spec; it is validated before the first step, and keeps
    the weights it came with if no epoch has a lower loss. Raises CheckpointError for a checkpoint of another training,
    and what the batches raise.
    """
    import keras

    statistics = checkpoint.statistics if checkpoint else None
    is_given = model is not None
    if spec.standardize and base is None and checkpoint is None and not is_given:
        statistics = feature_statistics(_reported(data.in_table_order, report))
    if not is_given:
        model = build_head(spec, data.shape, statistics, seed) if base is None else load_head(base)
    _make_all_variables(model, data.shape)
    compile_update(model)
    if checkpoint is not None:
        put_back(model, checkpoint, "model", "optimizer")
    log_folder.mkdir(parents=True, exist_ok=True)
    validation_steps = min(spec.validation_steps or data.after_epochs.steps, data.after_epochs.steps)
    faults = Faults()

    def held_out():
        return dataset(faults.batches(validated), data.shape, data.dtype, steps=validation_steps)

    def validated() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if validation_steps < data.after_epochs.steps:
            return islice(data.after_epochs.batches(), validation_steps)
        return ((features, labels) for _, features, labels in data.after_epochs.numbered())

    course = _Course(spec, data.training.steps, log_folder, report, checkpoint)
    if is_given and checkpoint is None:
        with faults.as_raised():
            course.start = _validated(model, held_out())
    best = _keep_best(spec.patience or spec.epochs + 1, checkpoint, course.start)
    keeper = _Keeper(keeping, course, best, statistics)
    weights = balanced_weights(data.class_counts) if spec.class_weight == "balanced" else None
    epochs_log = keras.callbacks.CSVLogger(log_folder / "epochs.csv", append=True)
    callbacks = [
        keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: course.begin_epoch(model, epoch),
            on_train_batch_begin=lambda step, logs: course.begin_step(),
            on_train_batch_end=lambda step, logs: course.end_step(logs),
            on_epoch_end=lambda epoch, logs: course.end_epoch(model, logs),
        ),
        best,
        epochs_log,
        keras.callbacks.TensorBoard(log_folder, write_graph=False),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: course.check_validation(logs)),
        keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda step, logs: keeper.after_step(model),
            on_epoch_end=lambda epoch, logs: keeper.after_epoch(model),
        ),
    ]

    def fit(first: int, end: int, step: int) -> None:
        rows = faults.batches(lambda: data.training.batches(first, step, epochs=end - first))
        model.fit(
            dataset(rows, data.shape, data.dtype, weights),
            steps_per_epoch=data.training.steps - step,
            initial_epoch=first,
            epochs=end,
            validation_data=held_out(),
            callbacks=callbacks,
            shuffle=False,  # the stream has shuffled
            verbose=0,
        )

    with suppress(_Diverged), closing(course.log), _closing_file_of(epochs_log), faults.as_raised():
        for part in _parts(course.epoch, course.step, spec.epochs):
            fit(*part)
            if model.stop_training:
                break
    if course.diverged:
        for callback in callbacks:
            callback.on_train_end()  # `fit` was left before it could close their files
    model.set_weights(best.best_weights)
    validation = evaluate(model, data.validation, data.shape, data.dtype, len(spec.classes))
    if course.diverged and best.best is None:
        validation = replace(validation, loss=math.nan)
    return Trained(
        model,
        tuple(course.history),
        tuple(course.epoch_seconds),
        validation,
        course.samples,
        course.seconds,
        course.start,
        course.diverged,
    )


def _reported(source: Batches, report: Callable[[dict], None]) -> Iterator[np.ndarray]:
    """The features of a pass, of which `report` hears as of epoch 0."""
    pace = _Pace(report)
    for step, (features, _) in enumerate(source.batches(), 1):
        yield features
        pace.tell({"epoch": 0, "epochs": 1, "step": step, "steps": source.steps})


@contextmanager
def _closing_file_of(epochs_log) -> Iterator[None]:
    """Close the file of a CSVLogger, which does so itself only where `fit` comes to its end."""
    try:
        yield
    finally:
        if epochs_log.csv_file is not None:
            epochs_log.csv_file.close()


def _make_all_variables(model, shape: tuple[int, ...]) -> None:
    """Let Keras make those of the metrics and the optimizer now: they are there when a checkpoint is put back."""
    model.test_on_batch(np.zeros((1, *shape), np.float32), np.zeros(1, np.int32))
    model.optimizer.build(model.trainable_variables)


def _parts(epoch: int, step: int, epochs: int) -> list[tuple[int, int, int]]:
    """First epoch, end and first step of each call of `fit`: the rest of a broken epoch is a call of its own."""
    parts = [(epoch, epoch + 1, step)] if step else []
    return [*parts, (epoch + len(parts), epochs, 0)]


def _validated(model, rows) -> dict[str, float]:
    loss, accuracy = model.evaluate(rows, verbose=0)
    return {"val_loss": loss, "val_accuracy": accuracy}


def _keep_best(patience: int, checkpoint: Checkpoint | None, start: dict[str, float] | None):
    """Early stopping that has room for the best weights from the beginning, so that no later epoch needs more memory.

    start: the figures that the first epoch has to better, None where any is better.
    """
    import keras

    before_any = {"best": start["val_loss"], "best_epoch": -1} if start else {}

    class KeepBest(keras.callbacks.EarlyStopping):
        best_weights: list[np.ndarray] | None = None

        def on_train_begin(self, logs=None):
            if self.best_weights is not None:
                return  # the second part of a training that was resumed
            super().on_train_begin(logs)
            self.best_weights = checkpoint.best_weights if checkpoint else self.model.get_weights()
            for name, value in (checkpoint.record["best"] if checkpoint else before_any).items():
                setattr(self, name, value)

        def on_epoch_end(self, epoch, logs=None):
            if not math.isfinite(logs["val_loss"]):
                return  # Keras would take it for the best where it is the first
            super().on_epoch_end(epoch, logs)
            if self.best_epoch == epoch:
                for kept, variable in zip(self.best_weights or [], self.model.weights, strict=True):
                    np.copyto(kept, values(variable))

        @property
        def record(self) -> dict[str, Any]:
            return {name: getattr(self, name) for name in ("best", "wait", "best_epoch", "stopped_epoch")}

    return KeepBest("val_loss", patience=patience)  # `train` puts the best weights back when the last part is done


class _Pace:
    """Reports at most once a second."""

    def __init__(self, report: Callable[[dict], None]):
        self._report = report
        self._reported = time.monotonic()

    def tell(self, record: dict) -> None:
        if time.monotonic() - self._reported > REPORT_EVERY_SECONDS:
            self._reported = time.monotonic()
            self._report(record)


class _Course:
    """Follows Keras from step to step: what each one lost, the history, and how far the training is.

    epoch, step: of the next step, counted from 0.
    """

    def __init__(
        self,
        spec: HeadSpec,
        steps: int,
        log_folder: Path,
        report: Callable[[dict], None],
        checkpoint: Checkpoint | None,
    ):
        self.epoch = checkpoint.epoch if checkpoint else spec.initial_epoch
        self.step = checkpoint.step if checkpoint else 0
        before = checkpoint.record if checkpoint else {}
        self.history: list[dict[str, float]] = before.get("history", [])
        self.epoch_seconds: list[float] = before.get("epoch_seconds", [])
        self.samples: int = before.get("samples", 0)
        self.start: dict[str, float] | None = before.get("start")
        self.diverged: Divergence | None = None
        self._losses: list[float] = before.get("losses", [])  # (loss sum, samples) of the epoch so far
        self._began = time.perf_counter() - before.get("seconds", 0.0)
        self._epoch_before: float = before.get("seconds_of_epoch", 0.0)
        self._resumed = checkpoint if self.step else None
        self._spec, self.steps, self._report, self._pace = spec, steps, report, _Pace(report)
        keep_rows(log_folder / "epochs.csv", lambda row: int(row[0]) < self.epoch)
        self.log = StepLog(log_folder / "steps.csv", self.epoch, self.step)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    @property
    def is_between_epochs(self) -> bool:
        return self.step in (0, self.steps)

    def record(self) -> dict[str, Any]:
        """The figures so far, as a checkpoint keeps them."""
        return {
            "history": self.history,
            "epoch_seconds": self.epoch_seconds,
            "samples": self.samples,
            "losses": self._losses if self.step else [],
            "seconds": self.seconds,
            "seconds_of_epoch": self._seconds_of_epoch if self.step else 0.0,
            "start": self.start,
        }

    def begin_epoch(self, model, epoch: int) -> None:
        """Keras has set its metrics to nothing; those of a broken epoch get back what they had."""
        self.epoch = epoch
        self._loss = next(metric for metric in model.metrics if metric.name == "loss")
        if self._resumed is not None:
            put_back(model, self._resumed, "metrics")
            self._resumed = None
        else:
            self.step, self._losses, self._epoch_before = 0, [], 0.0
        self._losses = self._losses or [0.0, 0.0]
        self._epoch_began = time.perf_counter()

    def begin_step(self) -> None:
        self._loss.reset_state()  # Keras' is a mean over the epoch; a step's own loss is wanted too

    def end_step(self, logs: dict[str, float]) -> None:
        total, count = (float(variable.numpy()) for variable in self._loss.variables)
        self._losses = [self._losses[0] + total, self._losses[1] + count]
        self.samples += round(count)
        self.log.add(self.epoch, self.step, float(logs["loss"]))
        self.step += 1
        self._seconds_of_epoch = self._epoch_before + time.perf_counter() - self._epoch_began
        place = {"epoch": self.epoch + 1, "epochs": self._spec.epochs, "step": self.step, "steps": self.steps}
        if not math.isfinite(total):
            self.diverged = Divergence(self.epoch + 1, self.step)
            self._keep_figures(dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), math.nan))
            raise _Diverged
        self._pace.tell(place)

    def check_validation(self, logs: dict[str, float]) -> None:
        """Stop the training after an epoch whose validation loss is not finite. The epoch has ended by now."""
        if not math.isfinite(logs["val_loss"]):
            self.diverged = Divergence(self.epoch)
            raise _Diverged

    def end_epoch(self, model, logs: dict[str, float]) -> None:
        """Put the epoch's mean loss where Keras has that of the last step, for every callback behind this one.

        Weights that are not finite have no validation loss, though TensorFlow's relu makes numbers of NaN.
        """
        total, count = self._losses
        logs["loss"] = total / count if count else math.nan
        if not all(np.isfinite(values(variable)).all() for variable in model.trainable_variables):
            logs["val_loss"] = math.nan
        self._keep_figures(logs)

    def _keep_figures(self, logs: dict[str, float]) -> None:
        self.history.append({name: float(value) for name, value in logs.items()})
        self.epoch_seconds.append(self._seconds_of_epoch)
        self.log.flush()
        self._report({"epoch": self.epoch + 1, "epochs": self._spec.epochs, **self.history[-1]})
        self.epoch, self.step = self.epoch + 1, 0


class _Keeper:
    """Writes a checkpoint when it is time for one."""

    def __init__(self, keeping: Keeping | None, course: _Course, best, statistics: Statistics | None):
        self._keeping, self._course, self._best, self._statistics = keeping, course, best, statistics
        self._kept = time.monotonic()

    def after_step(self, model) -> None:
        if not self._course.is_between_epochs:  # the last step's is written when the epoch has its validation
            self._keep(model)

    def after_epoch(self, model) -> None:
        if not model.stop_training:
            self._keep(model)

    def _keep(self, model) -> None:
        if self._keeping is None or time.monotonic() - self._kept < self._keeping.every_seconds:
            return
        course = self._course
        course.log.flush()
        arrays = state(model, self._best.best_weights, self._statistics)
        self._keeping.write(course.epoch, course.step, arrays, course.record() | {"best": self._best.record})
        self._kept = time.monotonic()
