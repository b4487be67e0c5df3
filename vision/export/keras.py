"""Export as a file of Keras, which loads in safe mode."""

import json
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from vision.export.description import FILE, Description


def write(model, path: Path, description: Description) -> None:
    """Write the model. The description lies beside Keras' own members in the archive."""
    model.save(path)
    with ZipFile(path, "a") as archive:
        archive.writestr(FILE, json.dumps(description.record(), indent=1))


def load(path: Path):
    """The probabilities that the file gives."""
    import keras

    model = keras.saving.load_model(path, safe_mode=True)
    return lambda pixels: np.asarray(model(pixels, training=False))
