"""Draws: the random numbers of a key, and the matrices that move a picture."""

from dataclasses import dataclass

import numpy as np

# One raw random word of a key per draw, used or not, so that the draw of one parameter never depends on the others.
WORDS = (
    "rotation",
    "x_shift",
    "x_sign",
    "y_shift",
    "y_sign",
    "shear",
    "x_zoom",
    "y_zoom",
    "mirror",
    "turn_over",
    "light",
)


@dataclass(frozen=True)
class Draws:
    """How n pictures are transformed.

    matrices: (n, 3, 3) float64, homogeneous, from a pixel (x, y, 1) of the result to its place in the original.
    brightness: (n,) float64, factors for the values.
    """

    matrices: np.ndarray
    brightness: np.ndarray


def units(keys: np.ndarray) -> dict[str, np.ndarray]:
    """For each of WORDS (n,) float64 in [0, 1). NumPy guarantees Philox' raw words (NEP 19), not a Generator's draws."""
    words = [np.random.Philox(key=int(key)).random_raw(len(WORDS)) for key in keys]
    units = (np.array(words, np.uint64).reshape(-1, len(WORDS)) >> np.uint64(11)) * 2.0**-53
    return dict(zip(WORDS, units.T, strict=True))


def affine(
    size: int,
    *,
    rotation: np.ndarray | float = 0.0,
    x_shift: np.ndarray | float = 0.0,
    y_shift: np.ndarray | float = 0.0,
    shear: np.ndarray | float = 0.0,
    x_zoom: np.ndarray | float = 1.0,
    y_zoom: np.ndarray | float = 1.0,
    mirror: np.ndarray | bool = False,
    turn_over: np.ndarray | bool = False,
) -> np.ndarray:
    """(n, 3, 3), or (3, 3) for scalars: the matrix of Keras' apply_affine_transform about the centre, then the flips.

    Units are degrees, pixels and factors. Flips are applied to the picture last, so their matrices are multiplied first
    on a pixel's way back to the original.
    """
    turn, slant = np.deg2rad(rotation), np.deg2rad(shear)
    centre, last = size / 2 - 0.5, size - 1
    return (
        _matrix((1, 0, centre), (0, 1, centre))
        @ _matrix((np.cos(turn), -np.sin(turn), 0), (np.sin(turn), np.cos(turn), 0))
        @ _matrix((1, 0, x_shift), (0, 1, y_shift))
        @ _matrix((1, -np.sin(slant), 0), (0, np.cos(slant), 0))
        @ _matrix((x_zoom, 0, 0), (0, y_zoom, 0))
        @ _matrix((1, 0, -centre), (0, 1, -centre))
        @ _matrix((np.where(mirror, -1, 1), 0, np.where(mirror, last, 0)), (0, 1, 0))
        @ _matrix((1, 0, 0), (0, np.where(turn_over, -1, 1), np.where(turn_over, last, 0)))
    )


def _matrix(*rows: tuple) -> np.ndarray:
    """Homogeneous matrices from two rows; an entry is a number or one number per picture."""
    entries = np.broadcast_arrays(*(np.asarray(entry, np.float64) for row in (*rows, (0, 0, 1)) for entry in row))
    return np.stack(entries, axis=-1).reshape(*entries[0].shape, 3, 3)
