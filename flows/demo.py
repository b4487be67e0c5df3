"""The demo: real images that scikit-learn ships, so that a first run needs neither data nor a network."""

import shutil
from pathlib import Path

# What stands in for the options that the user left alone. 32 pixels is the least that the backbones
# take; their weights are random and seeded, for nothing can be downloaded everywhere.
DEFAULTS = {"images": "./demo/digits", "store": "./demo/store", "image_size": 32, "weights": "random"}


def write_digits(folder: Path) -> None:
    """Write the 1,797 scanned digits (8x8, E. Alpaydin and C. Kaynak, UCI 1998) as PNG class folders, once."""
    if folder.is_dir():
        return
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    unfinished = folder.with_name(f"{folder.name}.writing")
    shutil.rmtree(unfinished, ignore_errors=True)
    for label in sorted(set(digits.target)):
        (unfinished / str(label)).mkdir(parents=True)
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        grey = np.round(pixels * (255 / 16)).astype(np.uint8)
        Image.fromarray(grey).save(unfinished / str(label) / f"{index:04d}.png")
    unfinished.rename(folder)
