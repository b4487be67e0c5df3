"""The demo: real images that scikit-learn ships, so that a first run needs neither data nor a network."""

import shutil
from collections.abc import Callable, Set
from pathlib import Path

from flows.options.pipeline import PipelineOptions
from storage.errors import InputError

# Defaults of the demo. 32 pixels is the smallest size that the backbones accept. The weights are random and seeded,
# because not every machine can download the trained ones.
DEFAULTS = {"images": "./demo/digits", "store": "./demo/store", "image_size": 32, "weights": "random"}

# A user who gives one of these options means images of their own, not the demo.
MEANT_FOR_OTHERS = {"store", "labels", "layout", "classes", "exclude", "relabel", "weights"}


def stand_in(options: PipelineOptions, given: Set[str], say: Callable[[str], None]) -> PipelineOptions:
    """Return the options of the demo, which the given ones override, and write its images.

    Raises InputError if a given option shows that no demo was meant.
    """
    meant = sorted(given & MEANT_FOR_OTHERS)
    if meant:
        raise InputError(f"--images: the folder of images is missing; --{meant[0]} does not apply to the demo")
    options = PipelineOptions(**DEFAULTS | options.model_dump(include=given - {"images"}))
    say(f"demo: 1,797 scanned digits in {options.images}, store in {options.store}; for your own: --images FOLDER")
    say(f"demo: the weights are random, not trained, so the accuracy says nothing about {options.backbone} on photos")
    write_digits(options.folder)
    return options


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
