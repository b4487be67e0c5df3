"""The engines there are, and which of them a run takes."""

from importlib import import_module
from typing import Literal

from vision.engines.serial import SerialEngine
from vision.errors import SpecError
from vision.specs import FeatureSpec

EngineName = Literal["auto", "tensorflow", "mnn"]

# Name → module and class, in the order in which `auto` tries them on a CPU. Importing the module loads no library of
# the engine: a command asks for obstacles before it knows whether there is anything to do.
ENGINES = {
    "mnn": "vision.engines.mnn_engine:MnnEngine",
    "tensorflow": "vision.engines.tensorflow_engine:TensorFlowEngine",
}
# Computes every spec on every device, and replaces an engine that fails. The others are used after a parity check.
FALLBACK = "tensorflow"


def engine_class(name: str) -> type[SerialEngine]:
    module, _, own = ENGINES[name].partition(":")
    return getattr(import_module(module), own)


def choose(wanted: EngineName, spec: FeatureSpec, has_gpu: bool) -> str:
    """The engine of a run. `auto` takes the fallback on a GPU, and otherwise the first engine that can compute the spec.

    Raises SpecError if the wanted engine cannot compute these features or is not installed.
    """
    if wanted == "auto":
        return FALLBACK if has_gpu else next(name for name in ENGINES if not engine_class(name).obstacle(spec))
    if obstacle := engine_class(wanted).obstacle(spec):
        raise SpecError(f"`engine={wanted}` {obstacle}; or use `engine=auto`")
    return wanted
