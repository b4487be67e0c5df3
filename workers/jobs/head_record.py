"""Parts of head.json."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from vision.training.evaluation import Evaluation, precision_and_recall


def test_metrics(test: dict | None) -> dict[str, float | None]:
    """`test_accuracy` and `test_loss` from the key `test` of head.json; None without test images."""
    return {f"test_{name}": test[name] if test else None for name in ("accuracy", "loss")}


def left_out(record: Mapping[str, Any]) -> int:
    """How many training samples were too many for the solver, from a head.json; 0 if it was trained in epochs."""
    return record.get("regularization", {}).get("left_out", 0)


def per_class(classes: tuple[str, ...], found: Evaluation) -> dict[str, dict[str, float | int | None]]:
    """Class → precision, recall and number of images. A score that would divide by zero is None."""
    scores = precision_and_recall(found.confusion)
    images = found.confusion.sum(axis=1).tolist()
    return {
        name: {"precision": precision, "recall": recall, "images": count}
        for name, (precision, recall), count in zip(classes, scores, images, strict=True)
    }


def environment(has_epochs: bool = True) -> dict[str, str]:
    """Versions of Python and of the libraries that a head was trained with: with Keras in epochs, or by scikit-learn's solver."""
    import keras
    import numpy
    import tensorflow as tf

    found = {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": numpy.__version__,
    }
    return found if has_epochs else found | {"scikit-learn": version("scikit-learn")}
