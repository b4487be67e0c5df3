"""Networks that Keras describes: made or read once per machine by a process with Keras, then known without it.

A network is one `.keras` file, what Keras computes with it for one picture, and the shape of that. The process writes them
into the cache of this machine; a file of the user stays where it is.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from vision.backbones.keras_network import ERROR, FOUND, OWN, REQUEST, WEIGHTS
from vision.backbones.own_file import EXPECTED, NETWORK, file_sha256, own_name
from vision.backbones.weights_file import Tensors
from vision.cache import cache_root
from vision.errors import SpecError, WeightsError
from vision.specs import FeatureSpec, backbone_of

logger = logging.getLogger(__name__)

RANDOM_ALGORITHM = "he-normal pcg64 seed 0, variances of powers of 4, version 1"
NAMED = ("imagenet", "random")
WAYS_OUT = (
    "Connect to a network that reaches https://storage.googleapis.com; or put Keras' own file into ~/.keras/models; or use "
    "`weights=random` for a trial run, whose accuracy means nothing"
)
LONGEST_SECONDS = 1800  # a download of 0.7 GB on a slow line


def described(spec: FeatureSpec, source: str) -> FeatureSpec:
    """The spec with the shape of its maps. source: `imagenet`, `random`, or the path of the weights or of the user's network.

    Raises SpecError if Keras refuses the network or the size of its images, WeightsError if it refuses the weights.
    """
    backbone = backbone_of(spec.backbone)
    if backbone.is_described:
        return spec
    if not backbone.application and own_name(source) != spec.backbone:
        raise SpecError(f"`backbone`: {source} has another architecture than {spec.backbone}")
    found = replace(spec, maps=tuple(_found(spec, source)["maps"]))
    if len(found.maps) == 1 and spec.pooling != "none":
        raise SpecError(
            f"`pooling`: the network gives one vector per image, so there is nothing to pool: use none, not {spec.pooling}"
        )
    return found


def network_tensors(spec: FeatureSpec, source: str) -> Tensors:
    """The file of the network as an array of bytes, and Keras' features of the sample picture, (1, *maps) float32."""
    folder = _folder(spec, source)
    _found(spec, source)
    path = folder / NETWORK if backbone_of(spec.backbone).application else Path(source)
    return {NETWORK: (np.frombuffer(path.read_bytes(), np.uint8),), EXPECTED: (np.load(folder / EXPECTED),)}


def weights_of_network(spec: FeatureSpec, source: str) -> str:
    """The digest of the weights of a network."""
    return _found(spec, source)["weights"]


def _found(spec: FeatureSpec, source: str) -> dict[str, Any]:
    """What the process found, from the cache or now."""
    folder = _folder(spec, source)
    try:
        return json.loads((folder / FOUND).read_text())
    except (OSError, ValueError):
        return _make(spec, source, folder)


def _folder(spec: FeatureSpec, source: str) -> Path:
    """The folder in the cache, by everything that changes the network or its features of the sample picture."""
    key = _request(spec, source) | {"keras": version("keras")}
    if source == "random":
        key["random"] = RANDOM_ALGORITHM
    elif source != "imagenet":
        key["file"] = file_sha256(source)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return cache_root() / "networks" / f"{spec.backbone}-{digest}"


def _request(spec: FeatureSpec, source: str) -> dict[str, Any]:
    own = FeatureSpec("", spec.backbone, spec.image_size, preprocessing=spec.preprocessing, rescale=spec.rescale)
    return {"spec": own.record(), "weights": source if source in NAMED else ""}


def _make(spec: FeatureSpec, source: str, folder: Path) -> dict[str, Any]:
    """Run the process, and keep what it found. A folder in the cache appears whole."""
    backbone = backbone_of(spec.backbone)
    name = backbone.name if backbone.application else source
    if source not in NAMED and backbone.differs_by_weights:
        raise WeightsError(
            f"`weights`: Keras builds {name} with another preprocessing for imagenet than for a file; pass `weights=imagenet`, "
            "which finds a file that lies in ~/.keras/models, or a whole network in a .keras file as `backbone`"
        )
    logger.info("asking Keras for %s with images of %d pixels, once on this machine", name, spec.image_size)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as made:
            place = Path(made, "network")
            place.mkdir()
            (place / REQUEST).write_text(json.dumps(_request(spec, source)))
            given = place / (WEIGHTS if backbone.application else OWN)
            if source not in NAMED:
                given.symlink_to(os.path.abspath(source))
            _run(place, spec, source, name)
            for path in place.glob("given*"):
                path.unlink()
            given.unlink(missing_ok=True)
            found = json.loads((place / FOUND).read_text())
            if not (folder / FOUND).exists():
                place.rename(folder)
            return found
    except OSError as error:
        raise SpecError(
            f"`backbone`: what Keras finds about {name} cannot be kept in {folder.parent} ({error.strerror}); set XDG_CACHE_HOME to a "
            "folder that can be written"
        ) from error


def _run(place: Path, spec: FeatureSpec, source: str, name: str) -> None:
    command = [sys.executable, "-m", "vision.backbones.keras_network", str(place)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=LONGEST_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise SpecError(f"`backbone`: loading {name} took more than {LONGEST_SECONDS} s") from error
    if not done.returncode:
        return
    if not (place / ERROR).exists():
        raise SpecError(
            f"`backbone`: the process that loads {name} ended with status {done.returncode}; {_last(done.stderr)}"
        )
    raise _refusal((place / ERROR).read_text(), spec, source, name)


def _refusal(reason: str, spec: FeatureSpec, source: str, name: str) -> ValueError:
    """The error of a reason that Keras or the process gave."""
    if not backbone_of(spec.backbone).application:
        return SpecError(f"`backbone`: {name} cannot be used: {_short(reason)}")
    if "Input size must be" in reason or "input_shape" in reason or "output size" in reason:
        return SpecError(f"`image_size`: {name} cannot take images of {spec.image_size} pixels: {_short(reason)}")
    if source == "imagenet":
        return WeightsError(
            f"`weights=imagenet`: those of {name} could not be downloaded ({_short(reason)}). {WAYS_OUT}"
        )
    if source == "random":
        return SpecError(f"`backbone`: Keras cannot build {name}: {_short(reason)}")
    return WeightsError(f"`weights`: {source} does not fit {name}: {_short(reason)}")


def _short(reason: str) -> str:
    return reason if len(reason) <= 300 else f"{reason[:300]}…"


def _last(text: str) -> str:
    return _short((text.strip().splitlines() or ["no reason given"])[-1])
