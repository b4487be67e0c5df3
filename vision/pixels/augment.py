"""Augment pixels with Keras."""

import numpy as np

from vision.pixels.augmentation import Augmentation, Draws


def augmented(pixels: np.ndarray, draws: Draws, augmentation: Augmentation) -> np.ndarray:
    """(n, size, size, 3) uint8 → the same shape, each picture transformed by its draw.

    One bilinear interpolation, then brightness, clipping to 0…255 and rounding. A picture depends neither on the others in
    the batch nor on its place. A draw that changes nothing returns the same pixels.
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
