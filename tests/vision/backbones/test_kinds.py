"""Every kind of file in tests/bad.py, decoded: docs/images.md says what comes of each."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests import bad
from vision.pixels.decode import ImageError, decode
from vision.specs import FeatureSpec

PROJECT = Path(__file__).parents[3]


def code_of(data: bytes) -> str | None:
    try:
        decode(data, 32)
    except ImageError as error:
        return error.code
    return None


@pytest.mark.parametrize("kind", bad.KINDS)
def test_each_kind_of_file_has_its_code_or_pixels_whatever_it_is_called(kind):
    code, data = bad.KINDS[kind]
    assert code_of(data) == code


@pytest.mark.parametrize("kind", bad.ODD)
def test_pixels_are_those_that_keras_loads(kind, tmp_path):
    from keras.utils import img_to_array, load_img

    (tmp_path / kind).write_bytes(bad.ODD[kind][1])
    with warnings.catch_warnings(action="ignore"):
        expected = img_to_array(load_img(tmp_path / kind, target_size=(32, 32), interpolation="bilinear"))
    assert np.array_equal(decode(bad.ODD[kind][1], 32), expected)


# EXIF


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_applied_exif_turns_a_picture_as_pillow_does(orientation, format):
    data = bad.encoded(bad.picture(), format, exif=bad.turned(orientation))
    whole = ImageOps.exif_transpose(Image.open(io.BytesIO(data)).convert("RGB"))
    expected = np.asarray(whole.resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(decode(data, 32, "apply"), expected)
    assert np.array_equal(decode(data, 32), decode(bad.encoded(bad.picture(), format), 32))


@pytest.mark.parametrize("kind", ["no such turn.jpg", "exif of noise.jpg", "png.png", "moving.gif"])
def test_exif_that_says_nothing_turns_nothing(kind):
    data = bad.KINDS[kind][1]
    assert np.array_equal(decode(data, 32, "apply"), decode(data, 32))


def test_exif_is_a_feature_space_of_its_own():
    assert FeatureSpec("", exif="apply").record() != FeatureSpec("").record()


# What is lost


def png_of(pixels: np.ndarray, colour_type: int, bits: int) -> bytes:
    """Samples as a PNG; colour_type: 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha (PNG, table 11.1)."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [bad.png_part(b"IHDR", header), bad.png_part(b"IDAT", zlib.compress(rows)), bad.png_part(b"IEND", b"")]
    )


def read(data: bytes, sixteen_bit: str = "clip") -> tuple[np.ndarray, list[str]]:
    losses: list[str] = []
    return decode(data, 16, sixteen_bit=sixteen_bit, on_loss=losses.append), losses


DEEP = np.random.default_rng(5).integers(0, 65_536, (16, 16), np.uint16)


def test_greys_of_16_bits_are_cut_off_and_told_of_or_scaled_to_their_high_byte():
    cut, losses = read(png_of(DEEP, 0, 16))
    assert losses == ["sixteen_bit"]
    assert np.array_equal(cut[..., 0], np.minimum(DEEP, 255))
    scaled, losses = read(png_of(DEEP, 0, 16), "scale")
    assert losses == []
    assert np.array_equal(scaled, read(png_of(DEEP >> 8, 0, 8))[0])


def test_greys_of_16_bits_that_fit_into_8_lose_nothing():
    small = DEEP >> 8
    assert read(png_of(small, 0, 16))[1] == []
    assert np.array_equal(read(png_of(small, 0, 16))[0][..., 0], small)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("sixteen_bit", ["clip", "scale"])
def test_other_images_of_16_bits_are_always_scaled(colour_type, channels, sixteen_bit):
    deep = np.random.default_rng(6).integers(0, 65_536, (16, 16, channels), np.uint16)
    pixels, losses = read(png_of(deep, colour_type, 16), sixteen_bit)
    assert losses == []
    assert np.array_equal(pixels, read(png_of(deep >> 8, colour_type, 8))[0])


@pytest.mark.parametrize(("colour_type", "channels"), [(4, 2), (6, 4)])
def test_a_picture_that_is_drawn_in_transparency_alone_is_told_of(colour_type, channels):
    pixels = np.zeros((16, 16, channels), np.uint8)
    assert read(png_of(pixels, colour_type, 8))[1] == []
    pixels[..., -1] = DEEP >> 8
    assert read(png_of(pixels, colour_type, 8))[1] == ["transparency"]
    pixels[0, 0, 0] = 1
    assert read(png_of(pixels, colour_type, 8))[1] == []


@pytest.mark.parametrize("kind", sorted(bad.ODD.keys() - {"16 bits.png"}))
def test_nothing_is_lost_of_any_other_kind(kind):
    assert read(bad.ODD[kind][1])[1] == []


# Bombs

MEMORY = """
import resource, sys
from tests import bad
from vision.pixels.decode import ImageError, decode
decode(bad.JPEG, 32), decode(bad.WEBP, 32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for code, data in bad.BAD.values():
    if code == "too_many_pixels":
        try:
            decode(data, 32)
        except ImageError:
            pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_bomb_of_any_format_is_refused_before_there_is_memory_for_it():
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4096  # KiB; the smallest of them would take a million


@pytest.mark.skipif("MESSY" not in os.environ, reason="MESSY names no folder of Pillow's own odd images")
def test_pillows_own_odd_images_are_pixels_or_an_image_error():
    for path in sorted(Path(os.environ["MESSY"]).iterdir()):
        code_of(path.read_bytes())
