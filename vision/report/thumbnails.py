"""Thumbnails of images, as the network sees them."""

import io

import numpy as np
from PIL import Image

from vision.pixels.decode import decode
from vision.specs import Exif, SixteenBit

SIDE = 192  # pixels, shown at half that size: sharp on screens with double density


def thumbnail(data: bytes, exif: Exif = "ignore", sixteen_bit: SixteenBit = "clip") -> bytes:
    """A small square JPEG of an image from its bytes. Raises ImageError."""
    return small(decode(data, SIDE, exif, sixteen_bit))


def small(pixels: np.ndarray) -> bytes:
    """(size, size, 3) uint8 RGB as a JPEG of at most SIDE pixels a side."""
    image, sink = Image.fromarray(pixels), io.BytesIO()
    if len(pixels) > SIDE:
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    image.save(sink, "JPEG", quality=80, optimize=True)
    return sink.getvalue()
