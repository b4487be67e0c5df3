"""From the bytes of a file to pixels."""

import io
import warnings

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")


class ImageError(ValueError):
    """These bytes cannot be made into pixels. `code` is the reason that the store keeps."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


def decode(data: bytes, size: int) -> np.ndarray:
    """The image as (size, size, 3) uint8 RGB: first frame, EXIF ignored, antialiased bilinear resize.

    The format is found by content, not by name. Raises ImageError (`decode_error`), also for an image of
    more than Pillow's 89 million pixels, before any of them is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                rgb = image if image.mode == "RGB" else image.convert("RGB")
                return np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR))
    except Exception as error:  # Pillow's decoders raise almost anything on broken input
        raise ImageError("decode_error", f"{type(error).__name__}: {error}") from error
