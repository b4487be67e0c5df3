"""The weights of a spec from a source, whichever kind its backbone is. Imports no Keras.

A source is `imagenet`, `random` or a path: of a file of weights, or of the user's network if that is the backbone.
"""

from pathlib import Path

from vision.backbones.network import network_tensors, weights_of_network
from vision.backbones.own_file import NETWORK, SUFFIX, weights_member
from vision.backbones.weights import load_weights, tensors_digest, weights_digest
from vision.backbones.weights_file import Tensors, weights_bytes
from vision.errors import WeightsError
from vision.specs import FeatureSpec, backbone_of


def load_tensors(spec: FeatureSpec, source: str) -> Tensors:
    """The weights, whatever their digest is. Raises WeightsError or SpecError."""
    backbone = backbone_of(spec.backbone)
    return load_weights(backbone, source) if backbone.is_described else network_tensors(spec, source)


def find_digest(spec: FeatureSpec, source: str, memo: Path) -> str:
    """The digest of the weights. memo: see `weights_digest`. Raises WeightsError or SpecError."""
    backbone = backbone_of(spec.backbone)
    return weights_digest(backbone, source, memo) if backbone.is_described else weights_of_network(spec, source)


def checked_tensors(spec: FeatureSpec, source: str) -> Tensors:
    """The weights. Raises WeightsError if their digest is not that of the spec."""
    tensors = load_tensors(spec, source)
    is_drawn = source == "random" and backbone_of(spec.backbone).is_described  # its digest is that of the algorithm
    if not is_drawn and tensors_digest(tensors) != spec.weights:
        raise WeightsError(f"`weights`: {source} changed during the run; run again")
    return tensors


def kept_suffix(spec: FeatureSpec) -> str:
    """The suffix of the file that a store keeps of the weights: of a user's network the network, of others the weights."""
    return ".h5" if backbone_of(spec.backbone).application else SUFFIX


def kept_bytes(spec: FeatureSpec, tensors: Tensors) -> bytes:
    """That file. `load_tensors` takes its path as a source, wherever it lies."""
    if NETWORK not in tensors:
        return weights_bytes(tensors)
    data = tensors[NETWORK][0].tobytes()
    return weights_member(data) if backbone_of(spec.backbone).application else data
