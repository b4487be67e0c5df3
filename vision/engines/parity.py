"""Check an engine against the reference before it is used."""

from collections.abc import Mapping
from hashlib import sha256

import numpy as np

from vision.backbones.weights_file import Tensors
from vision.engines.engine import Engine
from vision.sample import sample_picture

# The largest distance of an engine's features from the reference, relative to their length. In float32 by the dtype of the
# store: storing float16 adds an error of up to 5e-4; float32 is asked for because of its digits.
LARGEST_ERROR = {"float16": 3e-4, "float32": 1e-5}
# The same for precisions that lose digits, whatever the dtype, and the smallest cosine. The picture of the check was at most
# 0.0062 away in bfloat16 and 0.032 in int8 (docs/engines.md), and the worst of 400 photos 0.018 and 0.068.
LARGEST_ERROR_OF = {"bfloat16": 0.03, "int8": 0.1}
SMALLEST_COSINE_OF = {"bfloat16": 0.9995, "int8": 0.995}


class ParityError(ValueError):
    """The features of an engine are too far from the reference."""


def check_parity(engine: Engine, tensors: Tensors) -> None:
    """Compare engine and reference on one picture, in the time of two or three pictures. Raises ParityError."""
    check_distance(engine, distance(engine, tensors))


def distance(engine: Engine, tensors: Tensors) -> dict[str, float]:
    """The distance and cosine of the engine's features to the reference, on one picture. Neither is a verdict."""
    picture = sample_picture(engine.spec.image_size)[None]
    expected = engine.expected(picture, tensors).astype(np.float64).ravel()
    found = engine.features(picture).astype(np.float64).ravel()
    length = np.linalg.norm(expected)
    cosine = found @ expected / (np.linalg.norm(found) * length)
    return {"relative_l2": float(np.linalg.norm(found - expected) / length), "cosine": float(cosine)}


def check_distance(engine: Engine, found: Mapping[str, float]) -> None:
    """Raises ParityError if the distance exceeds the bound of the spec, or the cosine falls below it."""
    spec = engine.spec
    error, largest = found["relative_l2"], LARGEST_ERROR_OF.get(spec.precision, LARGEST_ERROR[spec.dtype])
    if not error <= largest:  # also true for NaN
        raise ParityError(
            f"{engine.name} differs from the reference by {error:.1e}, more than the allowed {largest:.0e}"
        )
    cosine, smallest = found["cosine"], SMALLEST_COSINE_OF.get(spec.precision, -1.0)
    if not cosine >= smallest:
        raise ParityError(f"{engine.name} has a cosine of {cosine:.5f} to the reference, less than {smallest}")


def witness(engine: Engine) -> str:
    """A digest of the engine's features of one picture. It changes if anything changes them, in the time of a picture."""
    picture = sample_picture(engine.spec.image_size)[None]
    return sha256(np.ascontiguousarray(engine.features(picture)).tobytes()).hexdigest()[:32]
