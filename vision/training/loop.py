"""Train a head, or a model that ends with one, on batches of features."""

import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vision.batches import Batches
from vision.training.best_epoch import keep_best
from vision.training.checkpoint import Checkpoint, put_back
from vision.training.course import Course, Diverged, Divergence, Pace
from vision.training.evaluation import Evaluation, evaluate
from vision.training.feeds import Feeds, TrainingData
from vision.training.head import HeadSpec
from vision.training.head_model import build_head, compile_update, load_head
from vision.training.keeper import Keeper, Keeping
from vision.training.pooling import parts, pool
from vision.training.statistics import Statistics, feature_statistics


@dataclass(frozen=True)
class Trained:
    """A trained Keras head, the history of its epochs, and its evaluation on every validation image once.

    model: has the weights of the epoch with the lowest validation loss. history: one record per epoch with `loss`,
    `accuracy`, `val_loss`, `val_accuracy`. epoch_seconds: the steps of each epoch, without its validation. samples: number
    of samples of all steps. seconds: the whole training, including what ran before it was resumed. start: `val_loss` and
    `val_accuracy` of a given model before the first step; None for a head.

    diverged: where training stopped because a loss was not finite; that epoch is the last of the history. If no epoch
    before it had a finite validation loss, the initial weights are kept and the loss of `validation` is NaN.
    regularization: how a solver chose its strength (vision/training/logistic.py); None if the head was trained in epochs.
    """

    model: object
    history: tuple[dict[str, float], ...]
    epoch_seconds: tuple[float, ...]
    validation: Evaluation
    samples: int
    seconds: float
    start: dict[str, float] | None = None
    diverged: Divergence | None = None
    regularization: dict | None = None


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

    log_folder: gets `steps.csv`, `epochs.csv` and TensorBoard's `train/` and `validation/`. report: receives the step at most
    once a second (`epoch`, `epochs`, `step`, `steps`; epoch 0 is the pass for the statistics), and the end of each
    epoch (`epoch`, `epochs` and the figures of the history). checkpoint: where to resume; every step is then what it
    would have been.

    base: the saved head to continue from at `spec.initial_epoch`, with its optimizer. model: a compiled Keras model to train
    instead of a head. Its layers, optimizer and standardisation are its own, whatever the spec says. It is validated
    before the first step, and keeps its weights if no epoch has a lower loss. Raises CheckpointError if the checkpoint
    is of another training, and whatever the batches raise.
    """
    is_fresh = checkpoint is None
    statistics = None if checkpoint is None else checkpoint.statistics
    is_given = model is not None
    if not is_given:
        if is_fresh and base is None and spec.standardize:
            statistics = _statistics(spec, data, report)
        model = build_head(spec, data.shape, statistics, seed) if base is None else load_head(base)
    _prepare(model, data.shape, checkpoint)
    log_folder.mkdir(parents=True, exist_ok=True)
    feeds = Feeds(spec, data)
    course = Course(spec, data.training.steps, log_folder, report, checkpoint)
    if is_given and is_fresh:
        course.start = _validated(model, feeds)
    best = keep_best(spec.patience or spec.epochs + 1, checkpoint, course.start)
    _fit(model, feeds, course, best, Keeper(keeping, course, best, statistics), log_folder)
    model.set_weights(best.best_weights)
    return _trained(model, data, course, best, len(spec.classes))


def _statistics(spec: HeadSpec, data: TrainingData, report: Callable[[dict], None]) -> Statistics:
    """Of what the head standardises: the features, or what it pools them to."""
    features = (features for features, _ in reported(data.in_table_order, report))
    if not spec.pools:
        return feature_statistics(features)
    pooled = (pool(batch, spec.head_pooling) for batch in features)
    return feature_statistics(pooled, parts(data.shape, spec.head_pooling))


def _prepare(model, shape: tuple[int, ...], checkpoint: Checkpoint | None) -> None:
    """Make the variables of metrics and optimizer now, not in the first step, and restore the checkpoint."""
    model.test_on_batch(np.zeros((1, *shape), np.float32), np.zeros(1, np.int32))
    model.optimizer.build(model.trainable_variables)
    compile_update(model)
    if checkpoint is not None:
        put_back(model, checkpoint, "model", "optimizer")


def _validated(model, feeds: Feeds) -> dict[str, float]:
    with feeds.faults.as_raised():
        loss, accuracy = model.evaluate(feeds.held_out(), verbose=0)
    return {"val_loss": loss, "val_accuracy": accuracy}


def _fit(model, feeds: Feeds, course: Course, best, keeper: Keeper, log_folder: Path) -> None:
    """Train from where the course is to the last epoch, to early stopping, or to a loss that is not finite."""
    import keras

    epochs_log = keras.callbacks.CSVLogger(log_folder / "epochs.csv", append=True)
    tensorboard = keras.callbacks.TensorBoard(log_folder, write_graph=False)
    callbacks = _callbacks(model, course, keeper, best, epochs_log, tensorboard)
    with suppress(Diverged), closing(course.log), _closing_file_of(epochs_log), feeds.faults.as_raised():
        for first, end, step in _parts(course.epoch, course.step, course.epochs):
            model.fit(
                feeds.training(first, end, step),
                steps_per_epoch=course.steps - step,
                initial_epoch=first,
                epochs=end,
                validation_data=feeds.held_out(),
                callbacks=callbacks,
                shuffle=False,  # the stream has shuffled
                verbose=0,
            )
            if model.stop_training:
                break
    if course.diverged:
        for callback in callbacks:
            callback.on_train_end()  # `fit` ended before it could close their files


def _callbacks(model, course: Course, keeper: Keeper, *middle) -> list:
    """In the order in which Keras calls them: `course` corrects the figures that the `middle` ones read."""
    from keras.callbacks import LambdaCallback

    return [
        LambdaCallback(
            on_epoch_begin=lambda epoch, logs: course.begin_epoch(model, epoch),
            on_train_batch_begin=lambda step, logs: course.begin_step(),
            on_train_batch_end=lambda step, logs: course.end_step(logs),
            on_epoch_end=lambda epoch, logs: course.end_epoch(model, logs),
        ),
        *middle,
        LambdaCallback(on_epoch_end=lambda epoch, logs: course.check_validation(logs)),
        LambdaCallback(
            on_train_batch_end=lambda step, logs: keeper.after_step(model),
            on_epoch_end=lambda epoch, logs: keeper.after_epoch(model),
        ),
    ]


def _trained(model, data: TrainingData, course: Course, best, num_classes: int) -> Trained:
    validation = evaluate(model, data.validation, data.shape, data.dtype, num_classes)
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


def reported(source: Batches, report: Callable[[dict], None]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The (features, labels) of a pass, which `report` hears of as epoch 0."""
    pace = Pace(report)
    for step, batch in enumerate(source.batches(), 1):
        yield batch
        pace.report({"epoch": 0, "epochs": 1, "step": step, "steps": source.steps})


@contextmanager
def _closing_file_of(epochs_log) -> Iterator[None]:
    """Close the file of a CSVLogger, which closes it only if `fit` reaches its end."""
    try:
        yield
    finally:
        if epochs_log.csv_file is not None:
            epochs_log.csv_file.close()


def _parts(epoch: int, step: int, epochs: int) -> list[tuple[int, int, int]]:
    """First epoch, end and first step of each call of `fit`. An interrupted epoch resumes in its own call."""
    parts = [(epoch, epoch + 1, step)] if step else []
    return [*parts, (epoch + len(parts), epochs, 0)]
