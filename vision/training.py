"""Training a head on batches of features."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vision.head import HeadSpec, build_head, feature_statistics


class Batches(Protocol):
    """Where features come from: batches of an epoch, each (features, labels)."""

    @property
    def steps(self) -> int: ...

    def batches(self, epoch: int = 0, first_step: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]: ...


@dataclass(frozen=True)
class Trained:
    """A trained Keras head, the history of its epochs, and how it does on every validation image once.

    history: one record an epoch with `loss`, `accuracy`, `val_loss`, `val_accuracy`. The weights kept are
    those of the epoch with the lowest validation loss.
    """

    model: object
    history: tuple[dict[str, float], ...]
    val_loss: float
    val_accuracy: float
    seconds: float


def train(
    spec: HeadSpec,
    shape: tuple[int, ...],
    dtype: str,
    training: Batches,
    in_table_order: Batches,
    validation: Batches,
    seed: int,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, logs: None,
) -> Trained:
    """Fit a head of `spec` and keep the weights of its best epoch.

    training: shuffled by the seed. in_table_order: the same rows in a fixed order, for the statistics.
    validation: read once an epoch, whole.
    """
    import keras

    began = time.perf_counter()
    statistics = feature_statistics(f for f, _ in in_table_order.batches()) if spec.standardize else None
    model = build_head(spec, shape, statistics, seed)
    clock = _Clock(on_epoch)
    best = keras.callbacks.EarlyStopping(monitor="val_loss", patience=spec.epochs, restore_best_weights=True)
    held_out = _dataset(validation, shape, dtype, lambda: 0)
    model.fit(
        _dataset(training, shape, dtype, lambda: clock.epoch),
        epochs=spec.epochs,
        validation_data=held_out,
        callbacks=[clock.callback(), best],
        shuffle=False,  # the stream has shuffled
        verbose=0,
    )
    val_loss, val_accuracy = model.evaluate(held_out, verbose=0)
    return Trained(model, tuple(clock.history), val_loss, val_accuracy, time.perf_counter() - began)


def evaluate(path: str, shape: tuple[int, ...], dtype: str, validation: Batches) -> tuple[float, float]:
    """Loss and accuracy of a saved head on the validation batches. Loaded in Keras' safe mode."""
    import keras

    model = keras.saving.load_model(path, safe_mode=True)
    loss, accuracy = model.evaluate(_dataset(validation, shape, dtype, lambda: 0), verbose=0)
    return loss, accuracy


class _Clock:
    """Knows which epoch Keras is in, and keeps the history as it grows."""

    def __init__(self, on_epoch: Callable[[int, dict[str, float]], None]):
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self._on_epoch = on_epoch

    def callback(self):
        import keras

        return keras.callbacks.LambdaCallback(on_epoch_begin=self._begin, on_epoch_end=self._end)

    def _begin(self, epoch, logs):
        self.epoch = epoch

    def _end(self, epoch, logs):
        self.history.append({name: float(value) for name, value in logs.items()})
        self._on_epoch(epoch, self.history[-1])


def _dataset(source: Batches, shape: tuple[int, ...], dtype: str, epoch: Callable[[], int]):
    """A tf.data pipeline of whole batches; each pass asks `epoch` which epoch it is in.

    Features stay in their stored dtype until they are in the graph: half the bytes cross over.
    """
    import tensorflow as tf

    signature = (tf.TensorSpec((None, *shape), dtype), tf.TensorSpec((None,), tf.uint16))
    dataset = tf.data.Dataset.from_generator(lambda: source.batches(epoch()), output_signature=signature)
    dataset = dataset.map(lambda features, labels: (tf.cast(features, tf.float32), tf.cast(labels, tf.int32)))
    return dataset.apply(tf.data.experimental.assert_cardinality(source.steps)).prefetch(2)
