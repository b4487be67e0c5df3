"""What augmentation has made of a few training images: their pictures, and in words what was done."""

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
    """A training image. own: its class. path: of the file, as text. pictures: JPEGs of it as it is and as it was augmented;
    None where there are none any more, and `fault` says why.
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
    """How training images were augmented, and a few of them.

    augmentation: in words. views: of each image that are stored, the plain one counted; 0 where none are. period: `epoch`, or
    `pass` where epochs are of so many steps: each takes one of the views, or else makes pictures of its own. names: of the
    pictures of each sample, the plain one first.
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
    """Small JPEGs of the bytes of an image: as it is, and as each of the keys, (n,) uint64, augments it.

    At the size that the network sees, made small afterwards. Raises ImageError.
    """
    plain = decode(data, spec.image_size, spec.exif, spec.sixteen_bit)
    copies = np.repeat(plain[None], len(keys), axis=0)
    views = augmented(copies, augmentation.draw(keys, spec.image_size), augmentation)
    return tuple(map(small, [plain, *views]))


def in_words(augmentation: Augmentation) -> str:
    """What differs from the defaults as people write it: `rotation_range 20, zoom_range 0.8 to 1.2, horizontal_flip`."""
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
