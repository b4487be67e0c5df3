"""The ranges of a VGG's activations for int8: a function of weights, image size and two photos alone.

Rule: the largest output of each convolution over the middle squares of scikit-learn's sample photos china.jpg and
flower.jpg, times 1.5, rounded up to three digits. Another photo may exceed what these two reach; what exceeds a range
is clipped, and the factor leaves room for it. Measured with VGG16 at 224 pixels on 24 photos of cats and dogs, as the
relative L2 distance to float32, mean and worst: factor 1: 0.039, 0.107; **1.5: 0.034, 0.047**; 2: 0.041, 0.066. Six or
thirty crops of the same photos, or 32 photos of cats and dogs, are no better: 0.035 to 0.038, 0.048 to 0.075. Neither are
percentiles (99.999: 0.044, 0.109) and the range of the least squared error (0.055, 0.138), since rare large activations
carry much of the features.

The arithmetic is float64, so that machines differ by 1e-13 of a value. Rounding then gives the same ranges everywhere,
unless a value lies as close as that to a step.
"""

from decimal import ROUND_CEILING, Context
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from vision.backbones import vgg_reference as vgg
from vision.backbones.preprocessing import preprocessed
from vision.backbones.weights_file import Tensors
from vision.specs import FeatureSpec

FACTOR = 1.5
UPWARD = Context(prec=3, rounding=ROUND_CEILING)
# Name → digest of the decoded pixels. Another decoder could decode the same file otherwise.
PHOTOS = {"china.jpg": "e701459344fd69797154c91add3bb5d7", "flower.jpg": "3202904ed246795bf616c66d7859cd7c"}


def activation_ranges(spec: FeatureSpec, tensors: Tensors) -> list[float]:
    """The range of the output of each convolution. It takes a few seconds of one core at 224 pixels.

    Raises RuntimeError if the photos are missing or not decoded to the expected pixels.
    """
    exact = {name: tuple(array.astype(np.float64) for array in arrays) for name, arrays in tensors.items()}
    largest = np.zeros(len(exact))
    for picture in calibration_pictures(spec.image_size):
        values = preprocessed(picture[None], spec).astype(np.float64)
        largest = np.maximum(largest, [maps.max() for maps in vgg.convolutions(values, exact)])
    return [rounded_up(FACTOR * each) for each in largest]


def rounded_up(value: float) -> float:
    """The smallest number of three digits that is not below a value; 1 for a value of 0, which no output exceeds."""
    return float(UPWARD.create_decimal(value)) if value > 0 else 1.0


def calibration_pictures(size: int) -> list[np.ndarray]:
    """The middle square of each photo, (size, size, 3) uint8."""
    pictures = []
    for name, expected in PHOTOS.items():
        photo = _photo(name)
        if sha256(np.asarray(photo).tobytes()).hexdigest()[:32] != expected:
            raise RuntimeError(f"int8 cannot be calibrated: Pillow decodes {name} of scikit-learn to other pixels here")
        side = min(photo.size)
        left, top = ((length - side) // 2 for length in photo.size)
        square = photo.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        pictures.append(np.asarray(square))
    return pictures


def _photo(name: str) -> Image.Image:
    """A photo of scikit-learn, whose import would take a second."""
    found = find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder, "datasets", "images", name)
        if path.is_file():
            with Image.open(path) as photo:
                return photo.convert("RGB")
    raise RuntimeError(f"int8 cannot be calibrated: scikit-learn's photo {name} is missing")
