"""Batches of features: where they come from, and how Keras takes them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Protocol

import numpy as np


class Batches(Protocol):
    """Where features come from."""

    @property
    def steps(self) -> int: ...

    def batches(
        self, epoch: int = 0, first_step: int = 0, *, epochs: int | None = 1
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of some epochs, each (features, labels) of at least one sample."""

    def numbered(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Each sample once at most: `steps` batches, each (samples, features, labels).

        samples: (n,) their places in the order of the split. A sample that cannot be read any more is missing, so a
        batch may be empty.
        """


@dataclass(frozen=True)
class Held:
    """Batches in memory, each (samples, features, labels): the same ones each epoch."""

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
    """The errors of batches that Keras asks for, which would reach its caller as an error of a TensorFlow graph.

    `batches` keeps what its batches raise, and within `as_raised` TensorFlow's error makes place for that.
    """

    def __init__(self) -> None:
        self._first: Exception | None = None

    def batches(
        self, batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
    ) -> Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]:
        def watched() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            try:
                yield from batches()
            except Exception as error:
                self._first = self._first or error
                raise

        return watched

    @contextmanager
    def as_raised(self) -> Iterator[None]:
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError:  # and no other: what is read ahead may fail while something else goes wrong
            if self._first is None:
                raise
            raise self._first from None


def epochs_dataset(stream, class_weights: np.ndarray | None = None):
    """A tf.data pipeline over a stream that knows the `kind` of its features: epoch after epoch, without an end.

    What `fit` of a model of one's own takes: x=epochs_dataset(stream), steps_per_epoch=stream.steps. class_weights:
    (classes,), whose entries become the weights of their samples, the third element.
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

    Features stay in their stored dtype until they are in the graph: half the bytes cross over. steps: how many batches
    there are; None where `fit` is told how many make an epoch: over an iterator that goes on, it does not wait for the
    first batch of each. Nothing is left for tf.data to tune, which now and then takes seconds when an iterator begins.
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
