"""Which fold of a cross-validation each image belongs to."""

import numpy as np

FOLDS = 5


def stratified_folds(labels: np.ndarray, images: np.ndarray) -> np.ndarray:
    """(n,) the fold of each sample, from 0 to FOLDS - 1.

    labels: (n,) classes. images: (n,) uint64 from the digest of each sample's image. The images of a class are dealt out in the
    order of these numbers, so every fold has its share of each class, whatever the order of the samples. Samples of one image
    have one fold, also under two labels.
    """
    numbers, first, inverse = np.unique(images, return_index=True, return_inverse=True)
    own, folds = labels[first], np.empty(len(numbers), np.uint8)
    for label in np.unique(own):
        places = np.flatnonzero(own == label)
        folds[places] = (np.arange(len(places)) + label) % FOLDS
    return folds[inverse]
