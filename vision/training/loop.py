"""Training a head, or a model that ends with one, on batches of features."""

import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from vision.batches import Batches, Faults, dataset
from vision.training.best_epoch import keep_best
from vision.training.checkpoint import Checkpoint, put_back
from vision.training.course import Course, Diverged, Divergence, Pace
from vision.training.evaluation import Evaluation, evaluate
from vision.training.head import HeadSpec
from vision.training.head_model import build_head, compile_update, load_head
from vision.training.keeper import Keeper, Keeping
from vision.training.statistics import balanced_weights, feature_statistics


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

    course = Course(spec, data.training.steps, log_folder, report, checkpoint)
    if is_given and checkpoint is None:
        with faults.as_raised():
            course.start = _validated(model, held_out())
    best = keep_best(spec.patience or spec.epochs + 1, checkpoint, course.start)
    keeper = Keeper(keeping, course, best, statistics)
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

    with suppress(Diverged), closing(course.log), _closing_file_of(epochs_log), faults.as_raised():
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
    pace = Pace(report)
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
