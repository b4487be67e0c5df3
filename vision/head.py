"""The head: the small classifier trained on features."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np

Kind = Literal["mlp", "linear"]
Optimizer = Literal["rmsprop", "adam", "sgd"]
ClassWeight = Literal["none", "balanced"]
Sampling = Literal["shuffle", "bootstrap"]
TrainOn = Literal["features", "images"]

# What Keras' optimizers take where no learning rate is given.
LEARNING_RATES: dict[Optimizer, float] = {"rmsprop": 0.001, "adam": 0.001, "sgd": 0.01}

# A channel that varies less than this part of the mean variance is dead in the training rows; without
# a floor a single later value in it would be blown up a thousandfold.
VARIANCE_FLOOR = 1e-4

# Fields of a HeadSpec that came when there were heads already.
LATER = {
    "initial_epoch",
    "initial_head",
    "validation_steps",
    "augment",
    "variants",
    "train_on",
    "fine_tune",
    "fine_tune_epochs",
    "fine_tune_learning_rate",
}


@dataclass(frozen=True)
class HeadSpec:
    """Everything that shapes a trained head, beside the data, the seed and the head it goes on from.

    classes: names in index order. kind: `mlp` has a hidden layer, `linear` none. epochs: the number of the last one;
    initial_epoch: how many are done already, by the head it goes on from; initial_head: the name of that head where it
    went on from another one itself, empty where it was trained from the beginning. steps_per_epoch: None is
    one pass over the data. validation_steps: batches after each epoch, always the same; None is all. learning_rate: None takes the optimizer's own default. patience: epochs
    without a lower validation loss after which training ends; None goes on to the last. sampling:
    `bootstrap` draws with replacement. shuffle_memory_mb: bounds the window of the shuffle, so it
    changes the order of the samples.

    augment: how training images are augmented, as text (vision/augmentation.py), empty: not at all. variants: views of
    each that are stored, the plain one counted, of which an epoch takes one. train_on: `images` are augmented afresh for
    each epoch instead. fine_tune: the block of the backbone that is trained with the head once that is (vision/fine_tuning.py),
    and those behind it, for so many epochs at that learning rate; empty: none.
    """

    classes: tuple[str, ...]
    kind: Kind = "mlp"
    epochs: int = 20
    initial_epoch: int = 0
    initial_head: str = ""
    steps_per_epoch: int | None = None
    validation_steps: int | None = None
    batch_size: int = 128
    optimizer: Optimizer = "rmsprop"
    learning_rate: float | None = None
    patience: int | None = None
    class_weight: ClassWeight = "none"
    sampling: Sampling = "shuffle"
    standardize: bool = True
    shuffle_memory_mb: int = 256
    augment: str = ""
    variants: int = 1
    train_on: TrainOn = "features"
    fine_tune: str = ""
    fine_tune_epochs: int = 5
    fine_tune_learning_rate: float = 1e-5

    @property
    def untuned(self) -> "HeadSpec":
        """The head that fine-tuning begins at."""
        usual: dict[str, Any] = {field.name: field.default for field in fields(self) if "fine_tune" in field.name}
        is_augmented = self.variants > 1 or self.train_on == "images"
        return replace(self, **usual, augment=self.augment if is_augmented else "")

    def record(self) -> dict:
        """Everything, but for what came later and is at its default: heads from before keep their names."""
        usual = {field.name: field.default for field in fields(self) if field.name in LATER}
        known = {name: value for name, value in asdict(self).items() if name not in usual or value != usual[name]}
        return known | {"classes": list(self.classes)}


def epochs_before(head: Mapping[str, Any]) -> int:
    """How many epochs were done before those of the history. head: the spec; fine-tuning counts its own epochs."""
    return 0 if head.get("fine_tune") else head.get("initial_epoch", 0)


@dataclass(frozen=True)
class Statistics:
    """Mean and variance of each channel over the training rows, float64."""

    mean: np.ndarray
    variance: np.ndarray


def feature_statistics(batches: Iterable[np.ndarray]) -> Statistics:
    """One sequential pass over (n, ..., channels) batches; sums in float64, in the order given.

    Batches are merged by Chan, Golub and LeVeque's update (1979), which does not cancel. The variance
    has the floor VARIANCE_FLOOR times its mean over the channels, and is 1 where all are constant.
    """
    count, mean, squares = 0, np.zeros(0), np.zeros(0)
    for batch in batches:
        rows = batch.reshape(-1, batch.shape[-1]).astype(np.float64)
        batch_mean = rows.mean(axis=0)
        batch_squares = ((rows - batch_mean) ** 2).sum(axis=0)
        if not count:
            count, mean, squares = len(rows), batch_mean, batch_squares
            continue
        total = count + len(rows)
        delta = batch_mean - mean
        mean = mean + delta * (len(rows) / total)
        squares = squares + batch_squares + delta**2 * (count * len(rows) / total)
        count = total
    variance = squares / count
    floor = VARIANCE_FLOOR * variance.mean()
    return Statistics(mean, np.maximum(variance, floor) if floor > 0 else np.ones_like(variance))


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """Weights of the classes, from the number of samples of each, that make every class count the same.

    samples / (classes * count), over the classes that have samples, as scikit-learn's `balanced` (G. King
    and L. Zeng, "Logistic regression in rare events data", 2001); the mean over all samples is 1.
    """
    return np.where(counts > 0, counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)), 0)


def build_head(spec: HeadSpec, shape: tuple[int, ...], statistics: Statistics | None, seed: int):
    """The head, compiled. `mlp` is the tutorial's: Flatten, Dense 256 relu, Dropout 0.5, one sigmoid or a softmax.

    Takes (n, *shape) float16 or float32; gives (n, 1) for two classes, the probability of the second,
    else (n, classes). F. Chollet, "Building powerful image classification models using very little
    data" (2016), is where the layers come from.
    """
    import keras
    from keras import initializers, layers

    keras.mixed_precision.set_global_policy("float32")
    keras.utils.set_random_seed(seed)
    is_binary = len(spec.classes) == 2
    inputs = keras.Input(shape)
    values = inputs
    if statistics is not None:
        mean = statistics.mean.astype(np.float32)
        values = layers.Normalization(mean=mean, variance=statistics.variance.astype(np.float32))(values)
    if len(shape) > 1:
        values = layers.Flatten(data_format="channels_last")(values)
    start = initializers.GlorotUniform(seed=seed)
    if spec.kind == "mlp":
        values = layers.Dense(256, activation="relu", kernel_initializer=start)(values)
        values = layers.Dropout(0.5, seed=seed)(values)
    last = initializers.GlorotUniform(seed=seed + 1)
    if is_binary:
        outputs = layers.Dense(1, activation="sigmoid", kernel_initializer=last)(values)
    else:
        outputs = layers.Dense(len(spec.classes), activation="softmax", kernel_initializer=last)(values)
    model = keras.Model(inputs, outputs, name="head")
    compile_classifier(model, spec.optimizer, spec.learning_rate)
    return model


def compile_classifier(model, optimizer: Optimizer, learning_rate: float | None) -> None:
    """Compile a model that gives (n, 1), the probability of the second of two classes, or (n, classes).

    learning_rate: None takes the optimizer's own default.
    """
    import keras

    options = {} if learning_rate is None else {"learning_rate": learning_rate}
    model.compile(
        optimizer=keras.optimizers.get({"class_name": optimizer, "config": options}),
        loss="binary_crossentropy" if model.output_shape[-1] == 1 else "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def compile_update(model) -> None:
    """Let XLA make one pass over memory of the optimizer's update, where Keras does not compile the whole step anyway.

    TensorFlow goes over the weights once for each term of it, for a head on VGG16's features longer than it multiplies.
    The optimizer has to be built. A model that is saved knows nothing of it.
    """
    import tensorflow as tf

    if model.jit_compile:
        return
    update, variables = model.optimizer.apply, model.trainable_variables
    compiled = tf.function(lambda *gradients: update(list(gradients), variables), jit_compile=True, autograph=False)
    model.optimizer.apply = lambda gradients, trainable_variables=None: compiled(*gradients)
