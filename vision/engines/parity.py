"""Check an engine against the reference before it is used."""

from collections.abc import Mapping
from hashlib import sha256

import numpy as np

from vision.backbones import vgg_reference as vgg
from vision.backbones.weights_file import Tensors
from vision.engines.engine import Engine

# The largest distance of an engine's features from the reference, relative to their length. Storing float16 adds an error
# of up to 5e-4; float32 is asked for because of its digits.
LARGEST_ERROR = {"float16": 3e-4, "float32": 1e-5}


class ParityError(ValueError):
    """The features of an engine are too far from the reference."""


def check_parity(engine: Engine, tensors: Tensors) -> None:
    """Compare engine and reference on one picture, in the time of two or three pictures. Raises ParityError."""
    check_distance(engine, distance(engine, tensors))


def distance(engine: Engine, tensors: Tensors) -> dict[str, float]:
    """The distances of the engine's features from the reference, on one picture. None of them is a verdict."""
    spec = engine.spec
    picture = sample_picture(spec.image_size)[None]
    expected = vgg.features(spec, tensors, picture, engine.before).astype(np.float64)
    error = np.linalg.norm(engine.features(picture) - expected) / np.linalg.norm(expected)
    return {"relative_l2": float(error)}


def check_distance(engine: Engine, found: Mapping[str, float]) -> None:
    """Raises ParityError if the relative distance exceeds LARGEST_ERROR."""
    error, largest = found["relative_l2"], LARGEST_ERROR[engine.spec.dtype]
    if not error <= largest:  # also true for NaN
        raise ParityError(
            f"{engine.name} differs from the reference by {error:.1e}, more than the allowed {largest:.0e}"
        )


def witness(engine: Engine) -> str:
    """A digest of the engine's features of one picture. It changes if anything changes them, in the time of a picture."""
    picture = sample_picture(engine.spec.image_size)[None]
    return sha256(np.ascontiguousarray(engine.features(picture)).tobytes()).hexdigest()[:32]


def sample_picture(size: int) -> np.ndarray:
    """(size, size, 3) uint8 with gradients, edges and noise, as in a photo."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[0:size, 0:size] / size
    slopes = 120 * np.stack([rows, columns, 1 - rows], axis=-1)
    edges = 60 * ((rows * 7).astype(int) + (columns * 5).astype(int) & 1)[..., None]
    return (slopes + edges + draw.uniform(0, 60, (size, size, 3))).astype(np.uint8)
