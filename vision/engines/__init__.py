"""Engines: what turns a batch of pixels into features, which of them a run takes, and the check before it is believed.

This module imports neither TensorFlow nor MNN: each engine does when it is made, in the process that computes.
"""

import gc
import logging
from importlib.util import find_spec
from threading import RLock
from typing import Literal, Protocol

import numpy as np

from vision import vgg
from vision.specs import BACKBONES, FeatureSpec, SpecError, cut_shape
from vision.weights import Tensors, WeightsError, load_weights, tensors_digest

logger = logging.getLogger(__name__)

EngineName = Literal["auto", "tensorflow", "mnn"]

# How far an engine's features may be from the reference, as a part of their length. What is stored as
# float16 loses up to 5e-4 more; who asks for float32 wants its digits.
LARGEST_ERROR = {"float16": 3e-4, "float32": 1e-5}


class Engine(Protocol):
    """What turns pixels into features.

    name: the library and its version, kept in every shard. batch_size: images that it takes at a time; it
    may become smaller where memory runs out. fallback: why it stands in for the engine
    that was chosen, None where it is that one. before: the block in front of which it ends, as `block5`; None where the
    network is whole.
    """

    name: str
    spec: FeatureSpec
    batch_size: int
    fallback: str | None
    before: str | None

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """(n, size, size, 3) uint8 RGB → (n, *cut_shape(spec, before)) float32. Several threads may call it."""


class ParityError(ValueError):
    """An engine gives other features than the reference."""


def choose(wanted: EngineName, spec: FeatureSpec, has_gpu: bool) -> str:
    """The engine of a run: TensorFlow on a GPU, else Winograd's algorithm where it can be had, else TensorFlow.

    Raises SpecError where the wanted engine cannot compute these features or is not installed.
    """
    backbone = BACKBONES[spec.backbone]
    if not backbone.is_vgg:
        obstacle = f"computes the VGG family alone, not {backbone.name}"
    elif spec.precision != "float32":
        obstacle = f"computes in float32, not in {spec.precision}"
    elif find_spec("MNN") is None:
        obstacle = "is not installed: pip install -c constraints.txt -e '.[fast]'"
    else:
        obstacle = ""
    if wanted == "auto":
        return "tensorflow" if has_gpu or obstacle else "mnn"
    if wanted == "mnn" and obstacle:
        raise SpecError(f"--engine mnn {obstacle}; or leave the choice to --engine auto")
    return wanted


def load_engine(name: str, spec: FeatureSpec, weights: str, threads: int, before: str | None = None) -> Engine:
    """The engine of a spec, warm: built, run once, and as near to the reference as it has to be.

    One that is not, or that cannot be loaded, is told of and gives way to TensorFlow. before: end in front of this block
    (vision/specs.py, cut_shape). Kept until another is asked for, and gone before that is made: there is never memory
    for two. Threads that ask for the same engine at the same time get one. Raises WeightsError where the weights are not
    those of the spec any more, SpecError where the backbone cannot be cut there.
    """
    wanted = (name, spec, weights, threads, before)
    with _loading:
        if wanted not in _loaded:
            unload_engine()
            _loaded[wanted] = _made(*wanted)
        return _loaded[wanted]


_loaded: dict[tuple, Engine] = {}  # at most one
_loading = RLock()  # guards _loaded


def unload_engine() -> None:
    """Give back the memory of the engine that is loaded, once nobody else holds it."""
    with _loading:
        _loaded.clear()
    gc.collect()  # Keras' models refer to themselves


def _made(name: str, spec: FeatureSpec, weights: str, threads: int, before: str | None) -> Engine:
    cut_shape(spec, before)  # is there such a block? Asked before anything is read
    tensors = _checked_weights(spec, weights)
    fallback = None
    if name == "mnn":
        from vision.engines.mnn_engine import MnnEngine

        try:
            engine: Engine = MnnEngine(spec, tensors, threads, before)
            check_parity(engine, tensors)
            return engine
        except (ImportError, RuntimeError, ParityError) as error:
            fallback = f"{name} gives way to tensorflow: {error}"
            logger.warning("%s", fallback)
    from vision.engines.tensorflow_engine import TensorFlowEngine

    engine = TensorFlowEngine(spec, tensors, threads, before)
    engine.fallback = fallback
    engine.features(np.zeros((engine.batch_size, spec.image_size, spec.image_size, 3), np.uint8))
    return engine


def _checked_weights(spec: FeatureSpec, source: str) -> Tensors:
    tensors = load_weights(BACKBONES[spec.backbone], source)
    digest = spec.weights if source == "random" else tensors_digest(tensors)
    if digest != spec.weights:
        raise WeightsError(f"--weights: {source} changed while the run was going on; run again")
    return tensors


def check_parity(engine: Engine, tensors: Tensors) -> None:
    """Hold the engine against the reference on one picture, which takes as long as two or three.

    Raises ParityError where it is farther away than LARGEST_ERROR.
    """
    spec = engine.spec
    picture = sample_picture(spec.image_size)[None]
    expected = vgg.features(spec, tensors, picture, engine.before).astype(np.float64)
    error = np.linalg.norm(engine.features(picture) - expected) / np.linalg.norm(expected)
    if not error <= LARGEST_ERROR[spec.dtype]:  # not a number is no parity either
        raise ParityError(
            f"{engine.name} is {error:.1e} away from the reference, more than {LARGEST_ERROR[spec.dtype]:.0e}"
        )


def sample_picture(size: int) -> np.ndarray:
    """(size, size, 3) uint8 with what photos have: slopes, edges and grain."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[0:size, 0:size] / size
    slopes = 120 * np.stack([rows, columns, 1 - rows], axis=-1)
    edges = 60 * ((rows * 7).astype(int) + (columns * 5).astype(int) & 1)[..., None]
    return (slopes + edges + draw.uniform(0, 60, (size, size, 3))).astype(np.uint8)
