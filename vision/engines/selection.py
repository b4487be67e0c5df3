"""The engines there are, and which of them a run takes."""

from collections.abc import Mapping
from importlib import import_module
from typing import Literal

from vision.engines.serial import SerialEngine
from vision.errors import SpecError
from vision.specs import FeatureSpec

EngineName = Literal["auto", "tensorflow", "mnn", "openvino"]

# Name → module and class, in the order in which `auto` tries them on a CPU. Importing the module loads no library of
# the engine: a command asks for obstacles before it knows whether there is anything to do.
ENGINES = {
    "mnn": "vision.engines.mnn_engine:MnnEngine",
    "openvino": "vision.engines.openvino_engine:OpenVinoEngine",
    "tensorflow": "vision.engines.tensorflow_engine:TensorFlowEngine",
}
# Computes every backbone in float32 on every device, and replaces an engine that fails. The others are used after a parity
# check. In bfloat16 and int8 only OpenVINO computes: nothing replaces it.
FALLBACK = "tensorflow"


def engine_class(name: str) -> type[SerialEngine]:
    """The class of an engine. Imports its module, which loads no library of the engine."""
    module, _, own = ENGINES[name].partition(":")
    return getattr(import_module(module), own)


def candidates(spec: FeatureSpec) -> list[str]:
    """The engines that can compute these features on a CPU here, in the order of the table."""
    return [name for name in ENGINES if not engine_class(name).obstacle(spec)]


def choose(name: EngineName, spec: FeatureSpec, has_gpu: bool, rates: Mapping[str, float] | None = None) -> str:
    """The engine of a run. `auto` prefers the fallback on a GPU, and otherwise the fastest engine that can compute the spec.

    rates: images per second by engine, as this machine has measured them (vision/engines/rates.py). Without them the
    order of the table decides. Raises SpecError if the named engine cannot compute these features or is not installed,
    or if no engine can.
    """
    if name != "auto":
        if obstacle := engine_class(name).obstacle(spec):
            raise SpecError(f"`engine={name}` {obstacle}; or use `engine=auto`")
        return name
    able = candidates(spec)
    if not able:
        reasons = "; ".join(f"{each} {engine_class(each).obstacle(spec)}" for each in ENGINES)
        raise SpecError(f"`precision={spec.precision}` cannot be computed here: {reasons}")
    return FALLBACK if has_gpu and FALLBACK in able else max(able, key=lambda each: (rates or {}).get(each, 0.0))
