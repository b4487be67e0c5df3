"""Every kind of file in tests/bad.py, decoded: docs/images.md says what comes of each."""

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests import bad
from vision.images import ImageError, decode
from vision.specs import FeatureSpec

PROJECT = Path(__file__).parents[2]


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


# Bombs

MEMORY = """
import resource, sys
from tests import bad
from vision.images import ImageError, decode
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
