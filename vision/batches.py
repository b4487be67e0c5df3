"""Batches of features: the interface of their sources, and the datasets that Keras reads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Protocol

import numpy as np


class Batches(Protocol):
    """A source of features."""

    @property
    def steps(self) -> int:
        """Number of batches per epoch."""

    def batches(
        self, epoch: int = 0, first_step: int = 0, *, epochs: int | None = 1
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of `epochs` epochs from a step of `epoch` on, each (features, labels) with at least one sample."""

    def numbered(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Each sample at most once: `steps` batches, each (samples, features, labels).

        samples: (n,) places in the order of the split. A sample that can no longer be read is missing, so a batch may
        be empty.
        """


@dataclass(frozen=True)
class Held:
    """Batches in memory, each (samples, features, labels). Every epoch has the same ones."""

    held: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]

    @property
    def steps(self) -> int:
        return len(self.held)

    def batches(
        self, epoch: int = 0, first_step: int = 0, *, epochs: int | None = 1
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        pairs = [(features, labels) for _, features, labels in self.held if len(labels)]
        return islice(chain.from_iterable(repeat(pairs) if epochs is None else repeat(pairs, epochs)), first_step, None)

    def numbered(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return iter(self.held)


class Faults:
    """Errors raised by batches that Keras reads. Without it, the caller of Keras gets an error of a TensorFlow graph.

    `batches` keeps the first error, and `as_raised` raises it in place of TensorFlow's.
    """

    def __init__(self) -> None:
        self._first: Exception | None = None

    def batches(
        self, batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
    ) -> Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]:
        """The same batches, whose first error is kept."""

        def watched() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            try:
                yield from batches()
            except Exception as error:
                self._first = self._first or error
                raise

        return watched

    @contextmanager
    def as_raised(self) -> Iterator[None]:
        """Raise the kept error in place of the TensorFlow error that the block raises."""
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError:  # no other error: a batch that is read ahead may fail after it
            if self._first is None:
                raise
            raise self._first from None


def epochs_dataset(stream, class_weights: np.ndarray | None = None):
    """An endless tf.data pipeline over a stream that knows the `kind` of its features, epoch after epoch.

    For `fit` of your own model: x=epochs_dataset(stream), steps_per_epoch=stream.steps. class_weights: (classes,); the
    weight of each sample's class becomes the third element.
    """
    return dataset(stream.epochs, stream.kind.shape, np.dtype(stream.kind.dtype).name, class_weights)


def dataset(
    batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]],
    shape: tuple[int, ...],
    dtype: str,
    class_weights: np.ndarray | None = None,
    steps: int | None = None,
):
    """A tf.data pipeline of whole batches: (features, labels), and the weight of each sample's class if given.

    Features keep their stored dtype until they are in the graph, which halves the bytes to copy. steps: the number of
    batches. None if `fit` gets `steps_per_epoch`: it then keeps one iterator for all epochs, and no epoch waits for its first
    batch. Autotune is off, because it sometimes takes seconds when an iterator starts.
    """
    import tensorflow as tf

    def prepared(features, labels):
        pair = tf.cast(features, tf.float32), tf.cast(labels, tf.int32)
        return pair if class_weights is None else (*pair, tf.gather(tf.constant(class_weights, tf.float32), pair[1]))

    signature = (tf.TensorSpec((None, *shape), dtype), tf.TensorSpec((None,), tf.uint16))
    options = tf.data.Options()
    options.autotune.enabled = False
    pipeline = tf.data.Dataset.from_generator(batches, output_signature=signature).map(prepared)
    if steps is not None:
        pipeline = pipeline.apply(tf.data.experimental.assert_cardinality(steps))
    return pipeline.prefetch(2).with_options(options)
