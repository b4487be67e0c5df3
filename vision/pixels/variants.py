"""Views of an image: view 0 is the image as it is, k its variant k of an augmentation. Keras is loaded when one is made."""

from collections.abc import Sequence

import numpy as np

from vision.pixels.augmentation import Augmentation, variant_keys
from vision.runtime import prepare_tensorflow


class Variants:
    """Makes the variants of an augmentation, a text. Warm once it is made: no image is kept waiting for Keras to load.

    threads: CPU threads of TensorFlow, where nothing runs on it yet. Raises SpecError for what is no augmentation.
    """

    def __init__(self, augmentation: str, threads: int, size: int):
        self.augmentation = Augmentation.parse(augmentation)
        prepare_tensorflow(threads)
        self.views(np.zeros((size, size, 3), np.uint8), bytes(32), [1])

    def views(self, pixels: np.ndarray, key: bytes, numbers: Sequence[int]) -> np.ndarray:
        """(size, size, 3) uint8 of the image with the digest `key` → (n, size, size, 3) uint8, its views of these numbers.

        A function of the image, the augmentation and the number alone, whatever other views are made.
        """
        from vision.pixels.augment import augmented

        made = plain_views(pixels, key, numbers)
        at = [index for index, number in enumerate(numbers) if number]
        if at:
            keys = variant_keys(self.augmentation.digest, key, [numbers[index] for index in at])
            made[at] = augmented(made[at], self.augmentation.draw(keys, len(pixels)), self.augmentation)
        return made


def image_keys(digests: Sequence[bytes]) -> np.ndarray:
    """(n,) uint64, the beginnings of the digests of images, from which draws are hashed."""
    return np.array([int.from_bytes(digest[:8], "little") for digest in digests], np.uint64)


def plain_views(pixels: np.ndarray, key: bytes, numbers: Sequence[int]) -> np.ndarray:
    """(size, size, 3) uint8 → (n, size, size, 3) uint8: the image as it is, once for each number."""
    return np.repeat(pixels[None], len(numbers), axis=0)
