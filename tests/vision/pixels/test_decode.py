import io
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vision.pixels.decode import ImageError, decode, fast_jpeg
from vision.pixels.decode import by_pillow as by_pillow_whole


def picture(mode: str = "RGB", size: tuple[int, int] = (37, 23)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode in ("RGBA", "LA", "PA"):
        image.putalpha(Image.fromarray(pixels[..., 0]))
    return image if image.mode == mode else image.convert(mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def by_pillow(data: bytes, size: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


GOOD = {
    "png": encoded(picture(), "PNG"),
    "png of greys": encoded(picture("L"), "PNG"),
    "png of black and white": encoded(picture("1"), "PNG"),
    "png of 16 bit greys": encoded(Image.fromarray(np.full((9, 9), 300, np.uint16)), "PNG"),
    "png with palette": encoded(picture("P"), "PNG"),
    "png with alpha": encoded(picture("RGBA"), "PNG"),
    "png of greys with alpha": encoded(picture("LA"), "PNG"),
    "png with a transparent colour": encoded(picture(), "PNG", transparency=(1, 2, 3)),
    "png with one transparent palette entry": encoded(picture("P"), "PNG", transparency=3),
    "png with palette and alpha": encoded(picture("P"), "PNG", transparency=bytes(range(256))),
    "jpeg": encoded(picture(), "JPEG"),
    "jpeg of greys": encoded(picture("L"), "JPEG"),
    "jpeg of cmyk": encoded(picture("CMYK"), "JPEG"),
    "progressive jpeg": encoded(picture(), "JPEG", progressive=True),
    "gif": encoded(picture("P"), "GIF"),
    "gif with a transparent colour": encoded(picture("P"), "GIF", transparency=1),
    "bmp": encoded(picture(), "BMP"),
    "webp": encoded(picture(), "WEBP", lossless=True),
    "webp with alpha": encoded(picture("RGBA"), "WEBP", lossless=True),
    "one pixel": encoded(picture(size=(1, 1)), "PNG"),
    "one row": encoded(picture(size=(500, 1)), "PNG"),
    "larger than asked for": encoded(picture(size=(300, 200)), "PNG"),
}


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("size", [32, 48])
def test_pixels_are_those_of_pillows_own_conversion_and_bilinear_resize(kind, size):
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        found = decode(GOOD[kind], size)
    with warnings.catch_warnings(action="ignore"):
        expected = by_pillow(GOOD[kind], size)
    assert found.shape == (size, size, 3)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)
    assert [str(warning.message) for warning in leaked] == []


def test_a_size_that_fits_leaves_the_pixels_alone():
    image = picture(size=(32, 32))
    assert np.array_equal(decode(encoded(image, "PNG"), 32), np.asarray(image))


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(data, 32) == (255, 0, 0)).all()


def test_the_orientation_in_exif_is_ignored():
    turned = Image.Exif()
    turned[274] = 6
    assert np.array_equal(decode(encoded(picture(), "JPEG", exif=turned), 32), decode(encoded(picture(), "JPEG"), 32))


def test_grey_and_colour_give_three_channels_alike():
    pixels = decode(GOOD["png of greys"], 32)
    assert (pixels == pixels[..., :1]).all()


def bomb(width: int, height: int) -> bytes:
    """The first bytes of a PNG whose header claims width x height pixels."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"\0" * 100)) + part(b"IEND", b"")


BAD = {
    "nothing": ("zero_byte", b""),
    "text": ("not_image", b"this is a text\n" * 100),
    "html": ("not_image", b"<!DOCTYPE html><html><body>404</body></html>"),
    "zeros": ("not_image", b"\0" * 1000),
    "svg": ("unsupported", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'),
    "tiff": ("unsupported", encoded(picture(), "TIFF")),
    "icon": ("unsupported", encoded(picture(), "ICO")),
    "netpbm": ("unsupported", encoded(picture(), "PPM")),
    "jpeg 2000": ("unsupported", encoded(picture(), "JPEG2000")),
    "avif": ("unsupported", encoded(picture(), "AVIF")),
    "signature of a png only": ("decode_error", b"\x89PNG\r\n\x1a\n"),
    "signature of a jpeg only": ("decode_error", b"\xff\xd8\xff"),
    "half a png": ("truncated", GOOD["png"][: len(GOOD["png"]) // 2]),
    "half a jpeg": ("truncated", GOOD["jpeg"][: len(GOOD["jpeg"]) // 2]),
    "half a webp": ("decode_error", GOOD["webp"][: len(GOOD["webp"]) // 2]),  # its decoder does not tell which
    "half a gif": ("truncated", GOOD["gif"][: len(GOOD["gif"]) // 2]),
    "half a bmp": ("truncated", GOOD["bmp"][: len(GOOD["bmp"]) // 2]),
    "a png of 100 million pixels": ("too_many_pixels", bomb(20_000, 5_000)),
    "a png of 10 thousand million pixels": ("too_many_pixels", bomb(100_000, 100_000)),
    "a png of no pixels": ("decode_error", bomb(0, 0)),
}
CODES = (None, "zero_byte", "not_image", "unsupported", "truncated", "too_many_pixels", "decode_error")


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_image_has_its_code_and_nothing_else_comes_of_it(kind):
    code, data = BAD[kind]
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        with pytest.raises(ImageError) as caught:
            decode(data, 32)
    assert caught.value.code == code
    assert str(caught.value)
    assert [str(warning.message) for warning in leaked] == []


def refusal(data: bytes) -> str | None:
    """The code of the ImageError, None where there are pixels; anything else passes through."""
    try:
        pixels = decode(data, 32)
    except ImageError as error:
        return error.code
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    return None


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"RIFF"])
)
def test_random_bytes_only_ever_raise_image_error(data, start):
    assert refusal(start + data) in CODES


@given(st.sampled_from(["png", "jpeg", "gif", "bmp", "webp"]), st.data())
def test_a_file_cut_anywhere_only_ever_raises_image_error(kind, data):
    assert refusal(GOOD[kind][: data.draw(st.integers(0, len(GOOD[kind]) - 1))]) in CODES


@given(st.sampled_from(["png", "jpeg", "gif", "bmp", "webp"]), st.data())
def test_a_file_with_bytes_overwritten_only_ever_raises_image_error(kind, data):
    broken = bytearray(GOOD[kind])
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(broken) - 1), st.integers(0, 255)), min_size=1)):
        broken[at] = value
    assert refusal(bytes(broken)) in CODES


# libjpeg-turbo without Pillow

JPEGS = {
    f"{subsampling} {'progressive' if is_progressive else 'baseline'} {quality}": encoded(
        picture(size=(61, 45)), "JPEG", subsampling=subsampling, progressive=is_progressive, quality=quality
    )
    for subsampling in ("4:4:4", "4:2:2", "4:2:0")
    for is_progressive in (False, True)
    for quality in (30, 95)
}
LEFT_TO_PILLOW = {
    "png": GOOD["png"],
    "greys": GOOD["jpeg of greys"],
    "cmyk": GOOD["jpeg of cmyk"],
    "cut": JPEGS["4:2:0 baseline 95"][:-200],
    "cut in the header": JPEGS["4:2:0 baseline 95"][:30],
    "nothing but a magic number": b"\xff\xd8\xff",
    "empty": b"",
}


@pytest.fixture
def fresh_fast_jpeg():
    """Let `fast_jpeg` look at the libraries again, and once more after the test."""
    fast_jpeg.cache_clear()
    yield fast_jpeg
    fast_jpeg.cache_clear()


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_has_the_same_pixels_with_and_without_pillow(kind):
    assert np.array_equal(np.asarray(fast_jpeg()(JPEGS[kind])), np.asarray(by_pillow_whole(JPEGS[kind])))


@pytest.mark.parametrize("kind", LEFT_TO_PILLOW)
def test_what_is_no_usual_jpeg_is_left_to_pillow(kind):
    assert fast_jpeg()(LEFT_TO_PILLOW[kind]) is None


def test_a_jpeg_of_too_many_pixels_is_left_to_pillow_undecoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert fast_jpeg()(JPEGS["4:4:4 baseline 95"]) is None
    with pytest.raises(ImageError, match="DecompressionBomb"):
        decode(JPEGS["4:4:4 baseline 95"], 32)


def test_a_library_that_gives_other_pixels_is_not_used(fresh_fast_jpeg, monkeypatch, caplog):
    whole = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *given, **options: whole(*given, **options) ^ 1)
    assert fresh_fast_jpeg() is None
    assert "simplejpeg is not used" in caplog.text
    assert np.array_equal(decode(GOOD["jpeg"], 32), by_pillow(GOOD["jpeg"], 32))


def test_without_the_library_pillow_does_it_all(fresh_fast_jpeg, monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert fresh_fast_jpeg() is None
    assert np.array_equal(decode(GOOD["jpeg"], 32), by_pillow(GOOD["jpeg"], 32))


def test_a_bomb_is_refused_though_another_thread_silences_warnings(monkeypatch):
    """Filters of warnings are of the whole process: those of a stream that decodes at the same time may stand meanwhile."""
    opened = Image.open

    def silenced(*arguments, **options):
        warnings.simplefilter("ignore")
        return opened(*arguments, **options)

    monkeypatch.setattr(Image, "open", silenced)
    with pytest.raises(ImageError) as raised:
        decode(bomb(20_000, 5_000), 32)
    assert raised.value.code == "too_many_pixels"
