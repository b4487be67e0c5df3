"""Download ImageNet weights with Keras: `python -m vision.backbones.imagenet BACKBONE`, in its own process."""

import os
import subprocess
import sys
from pathlib import Path

from vision.errors import WeightsError
from vision.specs import BACKBONES, Backbone


def imagenet_file(backbone: Backbone) -> Path:
    """The path of the ImageNet weights in the cache of Keras. A missing file is downloaded."""
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
                f"--weights imagenet: {name} could not be downloaded ({reason}). Ways out: a network that reaches "
                f"{backbone.imagenet[1]}; --weights PATH of that file or of a Keras 3 .weights.h5; or "
                "--weights random, for a trial without meaning"
            )
    return path


def fetch(backbone: Backbone) -> None:
    import keras

    name, address, md5 = backbone.imagenet
    keras.utils.get_file(name, address, file_hash=md5, cache_subdir="models")


if __name__ == "__main__":
    fetch(BACKBONES[sys.argv[1]])
