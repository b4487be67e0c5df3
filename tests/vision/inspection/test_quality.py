"""Odd pictures: what is measured, and where the thresholds are."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from vision.inspection.outliers import NEIGHBOURS, far_threshold, neighbour_distances
from vision.inspection.quality import measure, oddities
from vision.pixels.decode import ImageError


def photo(width: int = 300, height: int = 200) -> Image.Image:
    """A picture with edges and all brightnesses."""
    draw = np.random.default_rng(0)
    small = draw.integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)


def on_white(image: Image.Image) -> Image.Image:
    page = Image.new("RGB", (300, 200), (255, 255, 255))
    page.paste(image, (120, 85))
    return page


def found(image: Image.Image) -> set[str]:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    odd = dict(oddities(measure(sink.getvalue()), 224))
    assert all(0 <= score <= 1 for score in odd.values())
    return set(odd)


@pytest.mark.parametrize(
    ("image", "kinds"),
    [
        (photo(), set()),
        (photo().point(lambda level: level // 5), {"dark"}),
        (photo().point(lambda level: 245 + level // 26), {"blank"}),
        (on_white(photo(60, 30)), {"bright"}),
        (photo().filter(ImageFilter.GaussianBlur(6)), {"blurred"}),
        (photo(60, 50), {"tiny"}),
        (photo(1000, 200), {"elongated"}),
        (Image.new("RGB", (300, 200), (90, 90, 90)), {"blank"}),
        (Image.new("L", (300, 200)), {"blank"}),
        (Image.new("RGB", (1, 1)), {"blank", "tiny"}),
    ],
    ids=["photo", "dark", "pale", "bright", "blurred", "tiny", "wide", "grey", "black", "pixel"],
)
def test_a_picture_is_odd_for_its_own_reason_alone(image, kinds):
    assert found(image) == kinds


def test_what_cannot_be_decoded_has_no_figures():
    with pytest.raises(ImageError):
        measure(b"no picture")


def test_the_distance_is_that_to_the_fifth_neighbour():
    draw = np.random.default_rng(0)
    vectors = draw.gamma(1, 1, (70, 16)).astype(np.float32)
    rows = np.arange(3, 63)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    plain = np.sort(1 - units[rows] @ units[rows].T, axis=1)[:, NEIGHBOURS]  # the image itself comes first
    assert np.allclose(neighbour_distances(lambda at: vectors[at], rows), plain, atol=1e-6)


def test_an_image_of_another_kind_is_far_and_too_few_images_are_not_judged():
    draw = np.random.default_rng(0)
    vectors = (np.array([1.0] * 8 + [0.0] * 8) + draw.normal(0, 0.1, (80, 16))).astype(np.float32)
    vectors[40] = vectors[40][::-1]
    distances = neighbour_distances(lambda at: vectors[at], np.arange(80))
    assert np.flatnonzero(distances > far_threshold(distances)).tolist() == [40]
    assert far_threshold(distances[:20]) == np.inf
    assert np.isnan(neighbour_distances(lambda at: vectors[at], np.arange(3))).all()
