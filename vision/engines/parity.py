"""Compare an engine with the reference before it is used."""

import numpy as np

from vision.backbones import vgg_reference as vgg
from vision.backbones.weights_file import Tensors
from vision.engines.engine import Engine

# How far an engine's features may be from the reference, as a part of their length. What is stored as
# float16 loses up to 5e-4 more; who asks for float32 wants its digits.
LARGEST_ERROR = {"float16": 3e-4, "float32": 1e-5}


class ParityError(ValueError):
    """An engine gives other features than the reference."""


def check_parity(engine: Engine, tensors: Tensors) -> None:
    """Hold the engine against the reference on one picture, which takes as long as two or three.

    Raises ParityError where it is farther away than LARGEST_ERROR.
    """
    spec = engine.spec
    picture = sample_picture(spec.image_size)[None]
    expected = vgg.features(spec, tensors, picture, engine.before).astype(np.float64)
    error = np.linalg.norm(engine.features(picture) - expected) / np.linalg.norm(expected)
    if not error <= LARGEST_ERROR[spec.dtype]:  # not a number is no parity either
        raise ParityError(
            f"{engine.name} is {error:.1e} away from the reference, more than {LARGEST_ERROR[spec.dtype]:.0e}"
        )


def sample_picture(size: int) -> np.ndarray:
    """(size, size, 3) uint8 with what photos have: slopes, edges and grain."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[0:size, 0:size] / size
    slopes = 120 * np.stack([rows, columns, 1 - rows], axis=-1)
    edges = 60 * ((rows * 7).astype(int) + (columns * 5).astype(int) & 1)[..., None]
    return (slopes + edges + draw.uniform(0, 60, (size, size, 3))).astype(np.uint8)
