"""Variants by Keras: what view k of an image is, whatever else is made."""

import subprocess
import sys

import numpy as np
import pytest

from vision.errors import SpecError
from vision.pixels.variants import Variants

TEXT = '{"horizontal_flip":true,"rotation_range":30.0,"zoom_range":0.2}'
KEY = bytes(range(32))


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.fixture
def variants(engine) -> Variants:
    return Variants(TEXT, 1, 32)


def test_a_view_is_the_same_whatever_other_views_are_made(variants, pixels):
    together = variants.views(pixels, KEY, [0, 1, 2, 3])
    assert (together.dtype, together.shape) == (np.uint8, (4, 32, 32, 3))
    for numbers in ([2], [3, 1], [0, 2]):
        made = variants.views(pixels, KEY, numbers)
        assert all(np.array_equal(view, together[number]) for view, number in zip(made, numbers, strict=True))


def test_view_0_is_the_image_and_each_variant_another_picture(variants, pixels):
    views = variants.views(pixels, KEY, range(6))
    assert np.array_equal(views[0], pixels)
    assert len({view.tobytes() for view in views}) == 6


def test_a_variant_is_of_its_image_and_of_its_augmentation(variants, pixels):
    (one,) = variants.views(pixels, KEY, [1])
    assert not np.array_equal(one, variants.views(pixels, bytes(32), [1])[0])
    other = Variants('{"horizontal_flip":true,"rotation_range":31.0,"zoom_range":0.2}', 1, 32)
    assert not np.array_equal(one, other.views(pixels, KEY, [1])[0])


def test_what_is_no_augmentation_is_refused(engine):
    with pytest.raises(SpecError, match="`augment`"):
        Variants('{"rotate":3}', 1, 32)


def test_in_a_process_of_its_own_keras_is_loaded_with_the_first_variants_and_has_the_threads_of_the_child():
    code = f"""
import sys
import vision.engines.extract, vision.pixels.variants
print("keras" in sys.modules or "tensorflow" in sys.modules)
vision.pixels.variants.Variants({TEXT!r}, 3, 8)
import tensorflow as tf
print(tf.config.threading.get_intra_op_parallelism_threads())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "3"]
