"""What many tests compute alike, computed once per process: random weights, reference features, engines."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from vision import engines
from vision.backbones import vgg_reference, weights
from vision.backbones.weights_file import Tensors
from vision.engines import serial
from vision.specs import Backbone, FeatureSpec

ENGINES_KEPT = 3

_draw = weights.random_weights
_made_once = lru_cache(ENGINES_KEPT)(engines._made)
_drawn: dict[int, tuple[Backbone, Tensors]] = {}  # by the identity of the backbone, which has no hash
_features: dict[tuple, np.ndarray] = {}


def random_weights(backbone: Backbone) -> Tensors:
    """The random weights of a backbone. The arrays are read-only, because tests share them."""
    if id(backbone) not in _drawn:
        _drawn[id(backbone)] = backbone, _draw(backbone)
        for array in (array for arrays in _drawn[id(backbone)][1].values() for array in arrays):
            array.setflags(write=False)
    return _drawn[id(backbone)][1]


def reference_features(
    spec: FeatureSpec, tensors: Tensors, pixels: np.ndarray, before: str | None = None
) -> np.ndarray:
    """The reference's features, which are remembered for shared weights."""
    if all(tensors is not shared for _, shared in _drawn.values()):
        return vgg_reference.features(spec, tensors, pixels, before)
    key = spec, id(tensors), pixels.tobytes(), before
    if key not in _features:
        _features[key] = vgg_reference.features(spec, tensors, pixels, before)
    return _features[key]


@contextmanager
def shared_weights() -> Iterator[None]:
    """Engines are loaded with shared random weights, and checked against remembered features.

    BLAS has one thread: a second one mostly waits, and takes the core of another test process.
    """
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1, "blas"):
        patch.setattr(weights, "random_weights", random_weights)
        patch.setattr(serial, "vgg", SimpleNamespace(features=reference_features))
        yield


@contextmanager
def shared_engines() -> Iterator[None]:
    """An engine that is asked for again is the one made before, also if others were loaded meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "_made", _made_once)
        yield
