"""What a picture looks like as a whole: its size, brightness, contrast and sharpness, and when one of them is odd.

Thresholds of brightness and aspect ratio are those of cleanvision 0.3 (Apache 2.0, cleanlab/cleanvision). The variance of the Laplacian as a
measure of focus is due to Pech-Pacheco and others, "Diatom autofocusing in brightfield microscopy", ICPR 2000. The other thresholds
are measured (benchmarks/suspects.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vision.pixels.decode import opened
from vision.specs import Exif, SixteenBit

ALGORITHM = 1  # of the measurement: raise it when a figure changes
SIDE = 256  # pixels: a larger picture is reduced first, because the network sees no finer detail

DARK = 0.32  # brightest percent of the pixels, from 0 to 1
BRIGHT = 0.95  # darkest five percent of the pixels
ASPECT = 0.35  # shorter side / longer side
BLANK = 3.0  # standard deviation of the grey levels, of 255
BLURRED = 30.0  # variance of the Laplacian of the grey levels
TINY = 0.25  # shorter side / side of the network's input: enlarged more than fourfold

KINDS = ("blank", "dark", "bright", "blurred", "tiny", "elongated")


@dataclass(frozen=True)
class Quality:
    """Figures of a picture. width, height: pixels. light: luminance, from 0 to 1, that a percent of the pixels exceeds. shade: that 95 %
    exceed. contrast: standard deviation of the grey levels. sharpness: variance of the Laplacian of the grey levels.
    """

    width: int
    height: int
    light: float
    shade: float
    contrast: float
    sharpness: float


def measure(data: bytes, exif: Exif = "ignore", sixteen_bit: SixteenBit = "clip") -> Quality:
    """The figures of a picture from the bytes of its file. Raises ImageError."""
    image = opened(data, exif, sixteen_bit)
    width, height = image.size
    grey = image.convert("L")
    grey.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    levels = np.asarray(grey, np.float32)
    shade, light = np.percentile(levels, [5, 99]) / 255
    return Quality(width, height, float(light), float(shade), float(levels.std()), _sharpness(levels))


def _sharpness(levels: np.ndarray) -> float:
    """The variance of the four-neighbour Laplacian, without the border; 0 for a picture of fewer than 3 pixels a side."""
    if min(levels.shape) < 3:
        return 0.0
    inner = levels[1:-1, 1:-1]
    around = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    return float((around - 4 * inner).var())


def oddities(found: Quality, image_size: int) -> Iterator[tuple[str, float]]:
    """What is odd about a picture: names of KINDS with a score from 0, at the threshold, to 1.

    image_size: side of the network's input. A blank picture is neither dark, bright nor blurred as well.
    """
    if found.contrast < BLANK:
        yield "blank", 1 - found.contrast / BLANK
    else:
        if found.light < DARK:
            yield "dark", 1 - found.light / DARK
        if found.shade > BRIGHT:
            yield "bright", (found.shade - BRIGHT) / (1 - BRIGHT)
        if found.sharpness < BLURRED:
            yield "blurred", 1 - found.sharpness / BLURRED
    shorter, longer = sorted((found.width, found.height))
    if shorter < TINY * image_size:
        yield "tiny", 1 - shorter / (TINY * image_size)
    if shorter < ASPECT * longer:
        yield "elongated", 1 - shorter / longer / ASPECT
