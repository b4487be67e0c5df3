"""Engines turn a batch of pixels into features. This module loads one, and checks it before it is used.

This module loads no library of an engine. Each engine loads its own when it is made, in the process that computes.
"""

import gc
import logging
from threading import RLock
from typing import Any

import numpy as np

from vision.backbones.own_file import NETWORK
from vision.backbones.sources import checked_tensors
from vision.backbones.weights_file import Tensors
from vision.engines.engine import Engine
from vision.engines.facts import cache_folder, engine_key, kept
from vision.engines.parallel import ParallelEngine
from vision.engines.parity import ParityError, check_distance, check_parity, distance, witness
from vision.engines.selection import FALLBACK, engine_class
from vision.engines.serial import SerialEngine
from vision.errors import SpecError
from vision.specs import FeatureSpec, cut_shape

logger = logging.getLogger(__name__)


def load_engine(
    name: str,
    spec: FeatureSpec,
    weights: str,
    threads: int,
    before: str | None = None,
    largest_batch: int | None = None,
    copies: int = 1,
) -> Engine:
    """The engine of a spec, warm: built, run once, and checked against the reference.

    TensorFlow replaces an engine that is too far from the reference or cannot be loaded, with a warning. before: the block
    in front of which the network ends (vision/specs.py, cut_shape). largest_batch: images per batch that memory holds; None:
    as many as the engine takes. copies: engines with `threads` threads each, which share the batches. TensorFlow is one
    engine with all these threads instead.

    The engine stays loaded until another one is asked for. It is unloaded before the other one is made, because the memory
    may not hold two. Threads that ask for the same engine share it. Raises WeightsError if the weights are no longer those
    of the spec, SpecError if the backbone cannot be cut there, or if TensorFlow would have to replace the engine but cannot
    compute the precision.
    """
    key = (name, spec, weights, threads, before, largest_batch, copies)
    with _loading:
        if key not in _loaded:
            unload_engine()
            _loaded[key] = _made(*key)
        return _loaded[key]


_loaded: dict[tuple, Engine] = {}  # at most one
_loading = RLock()  # guards _loaded


def unload_engine() -> None:
    """Free the memory of the loaded engine, unless somebody else holds it."""
    with _loading:
        if not _loaded:
            return
        _loaded.clear()
    gc.collect()  # Keras models contain reference cycles


def _made(
    name: str,
    spec: FeatureSpec,
    weights: str,
    threads: int,
    before: str | None,
    largest_batch: int | None,
    copies: int,
) -> Engine:
    cut_shape(spec, before)  # is there such a block? Check before reading weights
    tensors = checked_tensors(spec, weights)

    fallback = None
    if name != FALLBACK:
        try:
            engines = [
                _limited(_checked(engine_class(name)(spec, tensors, threads, before), tensors, threads), largest_batch)
                for _ in range(copies)
            ]
            return engines[0] if copies == 1 else ParallelEngine(engines)
        except (ImportError, RuntimeError, ParityError) as error:
            reason = str(error)
            if isinstance(error, ParityError):
                reason += f"; to check it again, delete the facts in {cache_folder()}"
            if engine_class(FALLBACK).obstacle(spec):
                raise SpecError(f"{name} cannot compute `precision={spec.precision}`: {reason}") from error
            fallback = f"{FALLBACK} replaces {name}: {reason}"
            logger.warning("%s", fallback)
    engine = _limited(engine_class(FALLBACK)(spec, tensors, threads * copies, before), largest_batch)
    engine.fallback = fallback
    engine.features(np.zeros((engine.batch_size, spec.image_size, spec.image_size, 3), np.uint8))
    if NETWORK in tensors and spec.precision == "float32":
        _check_fallback(engine, tensors)
    return engine


def _check_fallback(engine: SerialEngine, tensors: Tensors) -> None:
    """Raises SpecError if the network gives other features here than where Keras described it. Nothing replaces this engine."""
    try:
        check_parity(engine, tensors)
    except ParityError as error:
        raise SpecError(f"`backbone`: {error}") from error


def _limited(engine: SerialEngine, largest_batch: int | None) -> SerialEngine:
    if largest_batch is not None:
        engine.limit_batch(largest_batch)
    return engine


def _checked(engine: SerialEngine, tensors: Tensors, threads: int) -> SerialEngine:
    """The engine, ready to use. Raises ParityError if its features are too far from the reference.

    The cache of facts has the distance, not the verdict: the bound of today decides, and an engine that is too far stays
    refused until the fact is deleted. Every process computes one picture anew, so that a fact cannot hide other features.
    """

    def find() -> dict[str, Any]:
        measured = engine.measure()
        engine.adopt(measured)
        return {"measured": measured, "distance": distance(engine, tensors), "witness": witness(engine)}

    def holds(fact: dict[str, Any]) -> bool:
        engine.adopt(fact["measured"])
        return witness(engine) == fact["witness"]

    fact = kept(engine_key(engine, threads), find, holds)
    check_distance(engine, fact["distance"])
    return engine
