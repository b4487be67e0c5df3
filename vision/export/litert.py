"""Export as a file of LiteRT, formerly TensorFlow Lite, with its built-in operations alone."""

import json
import warnings
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from vision.export.description import FILE, Description


def write(model, path: Path, description: Description) -> None:
    """Write the model. The description and the labels follow it as a zip archive, where LiteRT expects associated files."""
    import tensorflow as tf

    built_in = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    model.export(path, format="litert", verbose=False, target_spec=built_in)
    with ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "\n".join(description.classes))
        archive.writestr(FILE, json.dumps(description.record(), indent=1))


def load(path: Path):
    """The probabilities that the file gives."""
    import tensorflow as tf

    with warnings.catch_warnings(action="ignore"):  # TensorFlow's interpreter moves to the package ai-edge-litert
        interpreter = tf.lite.Interpreter(str(path))

    def probabilities(pixels: np.ndarray) -> np.ndarray:
        (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(given["index"], pixels.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], pixels)
        interpreter.invoke()
        return interpreter.get_tensor(found["index"])

    return probabilities
