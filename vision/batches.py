"""Batches of features: where they come from, and how Keras takes them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import numpy as np


class Batches(Protocol):
    """Where features come from: batches of an epoch, each (features, labels)."""

    @property
    def steps(self) -> int: ...

    def batches(self, epoch: int = 0, first_step: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]: ...


@dataclass(frozen=True)
class Held:
    """Batches in memory: the same ones each epoch."""

    held: tuple[tuple[np.ndarray, np.ndarray], ...]

    @property
    def steps(self) -> int:
        return len(self.held)

    def batches(self, epoch: int = 0, first_step: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return iter(self.held[first_step:])


def epochs_dataset(stream, class_weights: np.ndarray | None = None):
    """A tf.data pipeline over a stream that knows the `kind` of its features; each pass over it is the next epoch.

    What `fit` of a model of one's own takes: x=epochs_dataset(stream). class_weights: (classes,), whose entries become
    the weights of their samples, the third element.
    """
    epoch = count()
    kind = stream.kind
    return dataset(
        lambda: stream.batches(next(epoch)), stream.steps, kind.shape, np.dtype(kind.dtype).name, class_weights
    )


def dataset(
    batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]],
    steps: int,
    shape: tuple[int, ...],
    dtype: str,
    class_weights: np.ndarray | None = None,
):
    """A tf.data pipeline of whole batches: (features, labels), and the weight of each sample's class if given.

    Features stay in their stored dtype until they are in the graph: half the bytes cross over.
    """
    import tensorflow as tf

    def prepared(features, labels):
        pair = tf.cast(features, tf.float32), tf.cast(labels, tf.int32)
        return pair if class_weights is None else (*pair, tf.gather(tf.constant(class_weights, tf.float32), pair[1]))

    signature = (tf.TensorSpec((None, *shape), dtype), tf.TensorSpec((None,), tf.uint16))
    pipeline = tf.data.Dataset.from_generator(batches, output_signature=signature).map(prepared)
    return pipeline.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)
