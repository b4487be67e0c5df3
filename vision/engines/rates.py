"""How fast each engine computes a spec on this machine: measured once, kept as a fact, and `auto` takes the fastest.

Engines agree within the bound of the parity check, so the choice changes no feature beyond that.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np

from vision.engines import load_engine
from vision.engines.facts import builds, kept, known, machine, numeric_environment, remarks, sources
from vision.engines.selection import EngineName, candidates, engine_class
from vision.sample import sample_picture
from vision.specs import FeatureSpec

# Measuring takes about 20 s of computing at 224 pixels, most of it TensorFlow's start. A run of so many pixels
# (5,000 images of 224) takes more than 300 s even with the fastest engine, so it loses at most 6 %.
PIXELS_WORTH_MEASURING = 5_000 * 224 * 224


def known_rates(spec: FeatureSpec) -> dict[str, float]:
    """Engine → images per second of one thread, as this machine has measured them; empty if it has not."""
    try:
        found = known(_key(spec)) or {}
    except ImportError:  # a library without its list of files
        return {}
    return {name: float(rate) for name, rate in found.items()}


def is_worth_measuring(spec: FeatureSpec, pictures: int) -> bool:
    """Whether a run with this number of pictures should measure its engines first. Only if the result can be kept."""
    is_open = len(candidates(spec)) > 1 and not known_rates(spec) and not remarks()
    return is_open and pictures * spec.image_size**2 >= PIXELS_WORTH_MEASURING


def must_measure(name: EngineName, spec: FeatureSpec, has_gpu: bool, pictures: int) -> bool:
    """Whether a run with this number of pictures measures its engines before it uses the one of this name."""
    return name == "auto" and not has_gpu and is_worth_measuring(spec, pictures)


def measure_rates(spec: FeatureSpec, weights: str) -> dict[str, float]:
    """Run one batch with each engine that can compute the spec. An engine that another one replaces has no rate.

    It loads every engine, so it needs a process of its own. The clock is the CPU time of one thread, which other work on
    the machine does not change.
    """
    return kept(_key(spec), lambda: {name: rate for name in candidates(spec) if (rate := _rate(name, spec, weights))})


def _rate(name: str, spec: FeatureSpec, weights: str) -> float | None:
    engine = load_engine(name, spec, weights, 1)
    if engine.fallback:
        return None
    batch = np.repeat(sample_picture(spec.image_size)[None], engine.batch_size, axis=0)
    began = time.process_time()
    engine.features(batch)
    return len(batch) / max(time.process_time() - began, 1e-6)


def _key(spec: FeatureSpec) -> dict[str, Any]:
    """All that can change a rate. The values of the weights do not."""
    names = candidates(spec)
    libraries = {library for name in names for library in engine_class(name).distributions}
    return {
        "rates": names,
        "builds": builds(tuple(sorted(libraries))),
        "machine": machine(),
        "spec": replace(spec, weights="").record(),
        "sources": sources(),
        "environment": numeric_environment(),
    }
