"""A few training images and their augmented pictures, and the augmentation in words."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vision.pixels.augment import augmented
from vision.pixels.augmentation import Augmentation
from vision.pixels.decode import decode
from vision.report.thumbnails import small
from vision.specs import FeatureSpec


@dataclass(frozen=True)
class Sample:
    """A training image. own: its class. path: of the file, as text. pictures: JPEGs of the plain and the augmented image.

    pictures is None if the file can no longer be used, and `fault` says why.
    """

    own: str
    path: str
    pictures: tuple[bytes, ...] | None = None
    fault: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The pictures as data URIs."""
        return tuple(map(address, self.pictures or ()))


@dataclass(frozen=True)
class Augmented:
    """How training images were augmented, with examples.

    augmentation: in words. views: the number of stored views per image, including the plain one; 0 if none are stored.
    period: `epoch`, or `pass` if an epoch is a number of steps. Each period uses one stored view, or makes new pictures.
    names: of the pictures of each sample, the plain one first.
    """

    augmentation: str
    views: int
    period: str
    names: tuple[str, ...]
    samples: tuple[Sample, ...]


def address(jpeg: bytes) -> str:
    """A JPEG as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def pictures(data: bytes, spec: FeatureSpec, augmentation: Augmentation, keys: np.ndarray) -> tuple[bytes, ...]:
    """Small JPEGs of an image from its bytes: the plain image, and one augmented by each of the keys, (n,) uint64.

    They are augmented at the size that the network sees, then reduced. Raises ImageError.
    """
    plain = decode(data, spec.image_size, spec.exif, spec.sixteen_bit)
    copies = np.repeat(plain[None], len(keys), axis=0)
    views = augmented(copies, augmentation.draw(keys, spec.image_size), augmentation)
    return tuple(map(small, [plain, *views]))


def in_words(augmentation: Augmentation) -> str:
    """The parameters that differ from their defaults: `rotation_range 20, zoom_range 0.8 to 1.2, horizontal_flip`."""
    return ", ".join(f"{name} {_value(name, value)}".strip() for name, value in augmentation.record().items())


def _value(name: str, value: Any) -> str:
    if value is True:
        return ""
    is_shift = name.endswith("shift_range")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ("one of " if is_shift else "") + (", " if is_shift else " to ").join(map(_number, value))
    return str(value) if is_shift else _number(value)  # a shift of 12 is not one of 12.0


def _number(value: Any) -> str:
    return str(value).removesuffix(".0")
