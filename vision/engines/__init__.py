"""Engines: what turns a batch of pixels into features, which of them a run takes, and the check before it is believed.

This module imports neither TensorFlow nor MNN: each engine does when it is made, in the process that computes.
"""

import gc
import logging
from threading import RLock

import numpy as np

from vision.backbones.weights import load_weights, tensors_digest
from vision.backbones.weights_file import Tensors
from vision.engines.engine import Engine
from vision.engines.parity import ParityError, check_parity
from vision.errors import WeightsError
from vision.specs import BACKBONES, FeatureSpec, cut_shape

logger = logging.getLogger(__name__)


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
