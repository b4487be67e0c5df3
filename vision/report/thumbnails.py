"""Small pictures of images, as the network sees them."""

import io

from PIL import Image

from vision.images import decode

SIDE = 192  # pixels: sharp at half that size on screens of double density


def thumbnail(data: bytes) -> bytes:
    """The bytes of an image as a small JPEG: a square, as the network sees it. Raises ImageError."""
    sink = io.BytesIO()
    Image.fromarray(decode(data, SIDE)).save(sink, "JPEG", quality=80, optimize=True)
    return sink.getvalue()
