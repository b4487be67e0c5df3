"""Training a head on batches of features."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vision.batches import Batches, dataset
from vision.evaluation import Evaluation, evaluate
from vision.head import HeadSpec, balanced_weights, build_head, feature_statistics

REPORT_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class TrainingData:
    """What a head is trained on: features of this shape and stored dtype.

    training: shuffled by the seed. in_table_order: the same rows in a fixed order, for the statistics.
    validation: read once an epoch, whole. class_counts: (classes,) training samples of each class.
    """

    shape: tuple[int, ...]
    dtype: str
    training: Batches
    in_table_order: Batches
    validation: Batches
    class_counts: np.ndarray


@dataclass(frozen=True)
class Trained:
    """A trained Keras head, the history of its epochs, and how it does on every validation image once.

    history: one record an epoch with `loss`, `accuracy`, `val_loss`, `val_accuracy`. The weights kept are
    those of the epoch with the lowest validation loss. samples: how many were trained on, over all epochs.
    """

    model: object
    history: tuple[dict[str, float], ...]
    validation: Evaluation
    samples: int
    seconds: float


def train(
    spec: HeadSpec,
    data: TrainingData,
    seed: int,
    log_folder: Path,
    report: Callable[[dict], None] = lambda record: None,
) -> Trained:
    """Fit a head of `spec` and keep the weights of its best epoch.

    `log_folder` gets `epochs.csv` and TensorBoard's `train/` and `validation/`. `report` hears, at most
    once a second, of the step (`epoch`, `epochs`, `step`, `steps`; epoch 0 is the pass for the
    statistics), and of each epoch's end (`epoch`, `epochs` and the figures of the history).
    """
    import keras

    began = time.perf_counter()
    clock = _Clock(spec.epochs, report)
    statistics = None
    if spec.standardize:
        statistics = feature_statistics(features for features, _ in clock.counted(data.in_table_order))
    model = build_head(spec, data.shape, statistics, seed)
    weights = balanced_weights(data.class_counts) if spec.class_weight == "balanced" else None
    log_folder.mkdir(parents=True, exist_ok=True)
    model.fit(
        dataset(lambda: clock.counted(data.training), data.training.steps, data.shape, data.dtype, weights),
        epochs=spec.epochs,
        validation_data=dataset(data.validation.batches, data.validation.steps, data.shape, data.dtype),
        callbacks=[
            clock.callback(),
            _keep_best(spec.patience or spec.epochs),
            keras.callbacks.CSVLogger(log_folder / "epochs.csv"),
            keras.callbacks.TensorBoard(log_folder, write_graph=False),
        ],
        shuffle=False,  # the stream has shuffled
        verbose=0,
    )
    validation = evaluate(model, data.validation, data.shape, data.dtype, len(spec.classes))
    return Trained(model, tuple(clock.history), validation, clock.samples, time.perf_counter() - began)


def _keep_best(patience: int):
    """Early stopping that holds room for the best weights from the beginning, so that no later epoch needs more memory."""
    import keras

    class KeepBest(keras.callbacks.EarlyStopping):
        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            self.best_weights = self.model.get_weights()

    return KeepBest("val_loss", patience=patience, restore_best_weights=True)


class _Clock:
    """Knows which epoch Keras is in, keeps the history as it grows, and tells how far it is."""

    def __init__(self, epochs: int, report: Callable[[dict], None]):
        self.epoch = 0  # counts from 1; 0 before the first
        self.samples = 0
        self.history: list[dict[str, float]] = []
        self._epochs = epochs
        self._report = report
        self._reported = time.monotonic()

    def counted(self, source: Batches) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of the epoch; they are counted here, where it costs Keras nothing."""
        for step, batch in enumerate(source.batches(max(0, self.epoch - 1)), 1):
            yield batch
            if self.epoch:
                self.samples += len(batch[1])
            if time.monotonic() - self._reported > REPORT_EVERY_SECONDS:
                self._reported = time.monotonic()
                self._report({"epoch": self.epoch, "epochs": self._epochs, "step": step, "steps": source.steps})

    def callback(self):
        import keras

        return keras.callbacks.LambdaCallback(on_epoch_begin=self._begin, on_epoch_end=self._end)

    def _begin(self, epoch, logs):
        self.epoch = epoch + 1

    def _end(self, epoch, logs):
        self.history.append({name: float(value) for name, value in logs.items()})
        self._report({"epoch": self.epoch, "epochs": self._epochs, **self.history[-1]})
