"""Decode the bytes of a file to pixels."""

import io
import logging
import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image

from vision.specs import Exif, SixteenBit

logger = logging.getLogger(__name__)

ORIENTATION = 274  # EXIF 2.32, table 4: the corner of the scene where the first pixel is
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
OURS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"RIFF")
# First bytes of other formats: TIFF, Photoshop, icons, JPEG 2000 and XL, Netpbm, QOI, SVG. HEIC and AVIF have `ftyp`
# at 4.
OTHERS = (
    b"II*\0",
    b"MM\0*",
    b"8BPS",
    b"\0\0\1\0",
    b"\0\0\0\x0cjP",
    b"\0\0\0\x0cJXL",
    b"\xff\x0a",
    b"P5\n",
    b"P6\n",
    b"qoif",
    b"<svg",
)


# What decoding can lose: values over 255 of 16-bit greys, or a whole picture that is drawn in transparency alone, because
# transparency is dropped.
Loss = Literal["sixteen_bit", "transparency"]


Code = Literal["zero_byte", "not_image", "unsupported", "truncated", "too_many_pixels", "decode_error"]


class ImageError(ValueError):
    """An image that cannot be used. code: the reason that the store keeps, a Code or a reason why the file could not be read.

    zero_byte: the file is empty. not_image: its first bytes are those of no image. unsupported: they are those of another
    format. truncated: the end is missing. too_many_pixels: more than Pillow's 89 million. decode_error: any other fault
    of an image in one of FORMATS.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


def decode(
    data: bytes,
    size: int,
    exif: Exif = "ignore",
    sixteen_bit: SixteenBit = "clip",
    on_loss: Callable[[Loss], None] = lambda loss: None,
) -> np.ndarray:
    """The image as (size, size, 3) uint8 RGB: first frame, antialiased bilinear resize. docs/images.md has the details.

    The content decides the format, not the name. exif: whether to apply the orientation. sixteen_bit: whether to clip
    16-bit greys at 255 or to scale them. on_loss: receives each kind of content that decoding loses. Raises ImageError; if there are too many
    pixels, before memory is allocated for them.
    """
    return np.asarray(
        _decoded(data, exif, sixteen_bit, on_loss, lambda image: image.resize((size, size), Image.Resampling.BILINEAR))
    )


def opened(data: bytes, exif: Exif = "ignore", sixteen_bit: SixteenBit = "clip") -> Image.Image:
    """The image in RGB and in its own size, decoded as `decode` does. Raises ImageError."""
    return _decoded(data, exif, sixteen_bit, lambda loss: None, lambda image: image)


def _decoded(
    data: bytes,
    exif: Exif,
    sixteen_bit: SixteenBit,
    on_loss: Callable[[Loss], None],
    finish: Callable[[Image.Image], Image.Image],
) -> Image.Image:
    fast = fast_jpeg()
    try:
        _check_webp(data)
        image = (fast and fast(data)) or by_pillow(data, sixteen_bit, on_loss)
        return finish(_upright(image, data) if exif == "apply" else image)
    except Exception as error:  # Pillow's decoders raise almost anything on broken input
        raise ImageError(_code(data, error), f"{type(error).__name__}: {error}") from error


def _code(data: bytes, error: Exception) -> Code:
    """The reason for an error of the decoder."""
    if not data:
        return "zero_byte"
    if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
        return "too_many_pixels"
    if data.startswith(OURS):
        return "truncated" if "truncated" in str(error) or isinstance(error, EOFError) else "decode_error"
    return "unsupported" if data.startswith(OTHERS) or data[4:8] == b"ftyp" or b"<svg" in data[:1000] else "not_image"


def _check_webp(data: bytes) -> None:
    """Refuse a WebP with too many pixels by its header, because Pillow allocates two pictures before it checks the size.

    RFC 9649, sections 2.5 to 2.7: the first chunk has the size of the canvas or of the single picture.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return
    kind, payload = data[12:16], data[20:30]
    width = height = 0
    if kind == b"VP8X":
        width, height = 1 + int.from_bytes(payload[4:7], "little"), 1 + int.from_bytes(payload[7:10], "little")
    elif kind == b"VP8L":
        bits = int.from_bytes(payload[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (int.from_bytes(payload[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    if width * height > (Image.MAX_IMAGE_PIXELS or 0):
        raise Image.DecompressionBombError(f"a WebP of {width} x {height} pixels")


def _upright(image: Image.Image, data: bytes) -> Image.Image:
    """The image in the orientation that its EXIF gives; unchanged if the EXIF cannot be read."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as header:
            transposition = TRANSPOSITIONS.get(header.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow's parser raises almost anything on broken EXIF
        return image
    return image if transposition is None else image.transpose(transposition)


def by_pillow(
    data: bytes, sixteen_bit: SixteenBit = "clip", on_loss: Callable[[Loss], None] = lambda loss: None
) -> Image.Image:
    """The image in RGB. Raises the errors of Pillow, and DecompressionBombError where Pillow only warns."""
    # Warning filters belong to the whole process, and two streams may decode at once. So the check is our own.
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
            raise Image.DecompressionBombError(f"an image of {image.width} x {image.height} pixels")
        image.load()
        if image.mode == "RGB":
            return image
        if is_deep(image) and sixteen_bit == "scale":
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        if loss := _loss_of(image):
            on_loss(loss)
        return image.convert("RGB")


def is_deep(image: Image.Image) -> bool:
    """Whether it is a 16-bit grey. Pillow clips those at 255, and scales 16-bit colours."""
    return image.mode.startswith("I")


def _loss_of(image: Image.Image) -> Loss | None:
    """The content that the conversion to RGB loses; None if it is little or nothing."""
    if is_deep(image):
        return "sixteen_bit" if image.getextrema()[1] > 255 else None  # type: ignore[operator]
    if image.mode not in ("RGBA", "LA"):
        return None
    *colours, alpha = image.getextrema()
    is_blank = all(low == high for low, high in colours)  # type: ignore[misc]
    return "transparency" if is_blank and alpha[0] < alpha[1] else None  # type: ignore[index]


@lru_cache(maxsize=1)
def fast_jpeg() -> Callable[[bytes], Image.Image | None] | None:
    """A decoder that calls libjpeg-turbo directly, 1.3 times as fast as Pillow; None if its pixels would differ.

    The decoder returns None for everything that is left to Pillow: other formats, JPEGs in other colours than YCbCr, too
    many pixels, and all errors.
    """
    try:
        from simplejpeg import decode_jpeg, decode_jpeg_header
    except ImportError:
        return None

    def decoded(data: bytes) -> Image.Image | None:
        if data[:2] != b"\xff\xd8":
            return None
        try:
            height, width, colours, _ = decode_jpeg_header(data)
            if colours != "YCbCr" or height * width > (Image.MAX_IMAGE_PIXELS or 0):
                return None
            return Image.fromarray(decode_jpeg(data, "RGB", fastdct=False, fastupsample=False))
        except ValueError:
            return None

    if all(_are_the_same(decoded(sample), by_pillow(sample)) for sample in _sample_jpegs()):
        return decoded
    logger.warning("simplejpeg is not used, because its pixels differ from Pillow's on this machine")
    return None


def _are_the_same(one: Image.Image | None, other: Image.Image) -> bool:
    return one is not None and np.array_equal(np.asarray(one), np.asarray(other))


def _sample_jpegs() -> list[bytes]:
    """One JPEG for each common colour subsampling, with sides that are no multiple of a block."""
    rows, columns = np.mgrid[0:45, 0:61]
    grain = np.random.default_rng(0).integers(0, 90, (45, 61, 3))
    picture = Image.fromarray((np.stack([rows * 3, columns * 2, rows + columns], axis=-1) + grain).astype(np.uint8))
    samples = []
    for subsampling, is_progressive, quality in ((0, False, 95), (1, False, 75), (2, False, 75), (2, True, 40)):
        sink = io.BytesIO()
        picture.save(sink, "JPEG", subsampling=subsampling, progressive=is_progressive, quality=quality)
        samples.append(sink.getvalue())
    return samples
