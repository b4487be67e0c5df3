"""Build, compile and load the Keras model of a head."""

import numpy as np

from vision.errors import HeadError
from vision.training.evaluation import LONGEST_REASON
from vision.training.head import HeadPooling, HeadSpec, Optimizer
from vision.training.statistics import Statistics


def load_keras() -> None:
    """Import Keras and TensorFlow, which takes seconds in a new process."""
    import keras  # noqa: F401
    import tensorflow  # noqa: F401


def load_head(path: str):
    """A saved head, loaded in Keras' safe mode. Raises HeadError if Keras refuses it or it is no model."""
    import keras

    try:
        return keras.saving.load_model(path, safe_mode=True)
    except Exception as error:  # Keras raises almost anything on other files
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise HeadError(
            f"{path} cannot be loaded: Keras safe mode refused it, or it is not a Keras model ({reason})"
        ) from error


def build_head(spec: HeadSpec, shape: tuple[int, ...], statistics: Statistics | None, seed: int):
    """The head, compiled. `mlp` is the tutorial's: Flatten, Dense 256 relu, Dropout 0.5, one sigmoid or a softmax.

    statistics: of the features, or of what `pool` makes of them if the head pools. None does not standardise. It takes (n, *shape) float16 or float32. Its outputs are (n, 1) for two classes, the probability of the second one, and
    (n, classes) otherwise. The layers are those of F. Chollet, "Building powerful image classification models using very
    little data" (2016).
    """
    import keras
    from keras import initializers, layers

    keras.mixed_precision.set_global_policy("float32")
    keras.utils.set_random_seed(seed)
    is_binary = len(spec.classes) == 2
    inputs = keras.Input(shape)
    values = pooling_layers(inputs, spec.head_pooling) if spec.pools and len(shape) > 1 else inputs
    if statistics is not None:
        mean = statistics.mean.astype(np.float32)
        values = layers.Normalization(mean=mean, variance=statistics.variance.astype(np.float32))(values)
    if len(values.shape) > 2:
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


def pooling_layers(maps, pooling: HeadPooling):
    """(n, height, width, channels) → (n, columns), as vision/training/pooling.py computes it."""
    from keras import layers

    kinds = {"avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}
    found = [kinds[part](data_format="channels_last", name=f"head_{part}")(maps) for part in pooling.split("+")]
    return layers.Concatenate(name="head_pooling")(found) if len(found) > 1 else found[0]


def compile_classifier(model, optimizer: Optimizer, learning_rate: float | None) -> None:
    """Compile a model whose outputs are (n, 1), the probability of the second of two classes, or (n, classes).

    learning_rate: None is the optimizer's default.
    """
    import keras

    options = {} if learning_rate is None else {"learning_rate": learning_rate}
    model.compile(
        optimizer=keras.optimizers.get({"class_name": optimizer, "config": options}),
        loss="binary_crossentropy" if model.output_shape[-1] == 1 else "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def compile_update(model) -> None:
    """Compile the optimizer's update with XLA, unless Keras compiles the whole step.

    XLA makes one pass over the weights. TensorFlow makes one per term of the update, which takes longer than the matrix
    products of a head on VGG16's features. The optimizer has to be built. A saved model is not affected.
    """
    import tensorflow as tf

    if model.jit_compile:
        return
    update, variables = model.optimizer.apply, model.trainable_variables
    compiled = tf.function(lambda *gradients: update(list(gradients), variables), jit_compile=True, autograph=False)
    model.optimizer.apply = lambda gradients, trainable_variables=None: compiled(*gradients)
