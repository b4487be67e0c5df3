"""Small pictures of images, as the network sees them."""

import io

import numpy as np
from PIL import Image

from vision.pixels.decode import decode
from vision.specs import Exif, SixteenBit

SIDE = 192  # pixels: sharp at half that size on screens of double density


def thumbnail(data: bytes, exif: Exif = "ignore", sixteen_bit: SixteenBit = "clip") -> bytes:
    """The bytes of an image as a small JPEG: a square, as the network sees it. Raises ImageError."""
    return small(decode(data, SIDE, exif, sixteen_bit))


def small(pixels: np.ndarray) -> bytes:
    """(size, size, 3) uint8 RGB as a JPEG of at most SIDE pixels a side."""
    image, sink = Image.fromarray(pixels), io.BytesIO()
    if len(pixels) > SIDE:
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    image.save(sink, "JPEG", quality=80, optimize=True)
    return sink.getvalue()
