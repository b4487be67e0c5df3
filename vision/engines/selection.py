"""Choose the engine of a run."""

from importlib.util import find_spec
from typing import Literal

from vision.errors import SpecError
from vision.specs import BACKBONES, FeatureSpec

EngineName = Literal["auto", "tensorflow", "mnn"]


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
