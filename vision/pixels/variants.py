"""Views of an image: view 0 is the plain image, view k its variant k. The first variant loads Keras."""

from collections.abc import Sequence

import numpy as np

from vision.pixels.augmentation import Augmentation, variant_keys
from vision.runtime import prepare_tensorflow


class Variants:
    """Makes variants. The constructor loads Keras and makes one variant, so that no image waits for it.

    augmentation: its text. threads: CPU threads of TensorFlow, if nothing runs on it yet. Raises SpecError if the text is
    no augmentation.
    """

    def __init__(self, augmentation: str, threads: int, size: int):
        self.augmentation = Augmentation.parse(augmentation)
        prepare_tensorflow(threads)
        self.views(np.zeros((size, size, 3), np.uint8), bytes(32), [1])

    def views(self, pixels: np.ndarray, key: bytes, numbers: Sequence[int]) -> np.ndarray:
        """(size, size, 3) uint8 of the image with digest `key` → (n, size, size, 3) uint8, the views with these numbers.

        A view depends only on image, augmentation and number, not on the other views of the call.
        """
        from vision.pixels.augment import augmented

        made = plain_views(pixels, key, numbers)
        at = [index for index, number in enumerate(numbers) if number]
        if at:
            keys = variant_keys(self.augmentation.digest, key, [numbers[index] for index in at])
            made[at] = augmented(made[at], self.augmentation.draw(keys, len(pixels)), self.augmentation)
        return made


def image_keys(digests: Sequence[bytes]) -> np.ndarray:
    """(n,) uint64: the first 8 bytes of each digest, which the draws are hashed from."""
    return np.array([int.from_bytes(digest[:8], "little") for digest in digests], np.uint64)


def plain_views(pixels: np.ndarray, key: bytes, numbers: Sequence[int]) -> np.ndarray:
    """(size, size, 3) uint8 → (n, size, size, 3) uint8: one copy of the plain image per number."""
    return np.repeat(pixels[None], len(numbers), axis=0)
