"""Augmentation of pixels, with Keras."""

import numpy as np

from vision.pixels.augmentation import Augmentation, Draws


def augmented(pixels: np.ndarray, draws: Draws, augmentation: Augmentation) -> np.ndarray:
    """(n, size, size, 3) uint8 → the same, each picture moved and lit as drawn for it.

    Interpolated once, bilinearly, then multiplied by the brightness, cut to 0 to 255 and rounded. Pixels depend neither on
    their neighbours in the batch nor on their place in it; what is drawn as it is comes back as it is.
    """
    import keras

    moved = keras.ops.image.affine_transform(
        pixels.astype(np.float32),
        draws.matrices.reshape(-1, 9)[:, :8],
        interpolation="bilinear",
        fill_mode=augmentation.fill_mode,
        fill_value=augmentation.cval,
        data_format="channels_last",
    )
    lit = np.asarray(moved) * draws.brightness[:, None, None, None].astype(np.float32)
    return np.rint(np.clip(lit, 0, 255)).astype(np.uint8)
