"""Download ImageNet weights with Keras: `python -m vision.backbones.imagenet BACKBONE`, in its own process."""

import os
import subprocess
import sys
from pathlib import Path

from vision.errors import WeightsError
from vision.specs import BACKBONES, Backbone


def imagenet_file(backbone: Backbone) -> Path:
    """The path of the ImageNet weights in the cache of Keras. A missing file is downloaded.

    Raises WeightsError if the download fails.
    """
    name = backbone.imagenet[0]
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    path = home / "models" / name
    if not path.exists():
        fetch = subprocess.run(
            [sys.executable, "-m", "vision.backbones.imagenet", backbone.name],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        if fetch.returncode or not path.exists():
            reason = (fetch.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise WeightsError(
                f"`weights=imagenet`: {name} could not be downloaded ({reason}). Connect to a network that reaches "
                f"{backbone.imagenet[1]}; or pass that file, or a Keras 3 .weights.h5, as `weights`; or use "
                "`weights=random` for a trial run, whose accuracy means nothing"
            )
    return path


def fetch(backbone: Backbone) -> None:
    """Download the ImageNet weights into the cache of Keras. Raises what Keras raises."""
    import keras

    name, address, md5 = backbone.imagenet
    keras.utils.get_file(name, address, file_hash=md5, cache_subdir="models")


if __name__ == "__main__":
    fetch(BACKBONES[sys.argv[1]])
