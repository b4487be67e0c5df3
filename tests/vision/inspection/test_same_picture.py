import io

import numpy as np
import pytest
from PIL import Image

from vision.inspection.same_picture import SIDE, same_picture
from vision.pixels.decode import decode


def scene(seed: int) -> Image.Image:
    """A smooth picture of coloured blobs, as a photo is at this size."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (7, 8, 3), dtype=np.uint8))
    return coarse.resize((320, 280), Image.Resampling.BICUBIC)


def small(image: Image.Image, quality: int = 90) -> np.ndarray:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return decode(sink.getvalue(), SIDE)


EDITS = {
    "recompressed": lambda image: small(image, 20),
    "smaller": lambda image: small(image.resize((120, 100))),
    "larger": lambda image: small(image.resize((640, 560))),
    "cropped": lambda image: small(image.crop((16, 14, 304, 266))),
    "cropped at one side": lambda image: small(image.crop((30, 0, 320, 280))),
    "flipped": lambda image: small(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_picture_is_the_same_in_both_directions(edit):
    for seed in range(5):
        one, other = small(scene(seed)), edit(scene(seed))
        assert min(same_picture(one, other), same_picture(other, one)) > 0.9


def test_other_pictures_are_not():
    pictures = [small(scene(seed)) for seed in range(12)]
    scores = [same_picture(pictures[i], pictures[j]) for i in range(12) for j in range(i)]
    assert max(scores) < 0.7


def test_blank_pictures_match_nothing():
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    noise = grey + np.random.default_rng(0).integers(0, 2, grey.shape, dtype=np.uint8)
    assert same_picture(grey, noise) < 0.5
    assert same_picture(grey, small(scene(1))) < 0.5
