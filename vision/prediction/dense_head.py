"""A saved head of pooling and dense layers as a few matrix products in numpy.

TensorFlow takes seconds to import, and such a head takes microseconds. `DenseHead` gives what Keras gives, up to the rounding
of float32 sums.
"""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vision.errors import HeadError
from vision.training.evaluation import class_scores

Step = Callable[..., np.ndarray]

EPSILON = np.float32(1e-7)  # keras.backend.epsilon(), the smallest deviation that its Normalization divides by
# A damaged archive may claim any size. The largest head of the tutorial at 1,024 pixels takes half of this.
LARGEST_MEMBER = 2**31


class NotDense(Exception):
    """The head has a layer that only Keras computes. The message names it."""


@dataclass(frozen=True)
class Node:
    """A layer: its name, the names of the layers whose outputs it takes, and what it computes of them."""

    name: str
    inputs: tuple[str, ...]
    step: Step


@dataclass(frozen=True)
class DenseHead:
    """A head of Normalization, global pooling, Concatenate, Flatten, Dropout and Dense layers. Use does not change it, so threads
    may share it. nodes: each after those that it needs; the last one is the output. entry: the name of the input.
    """

    entry: str
    nodes: tuple[Node, ...]

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(n, *shape) float16 or float32 → (n, classes) float32."""
        values = {self.entry: features.astype(np.float32, copy=False)}
        for node in self.nodes:
            values[node.name] = node.step(*(values[name] for name in node.inputs))
        return class_scores(values[self.nodes[-1].name])


def read_dense_head(path: Path) -> DenseHead:
    """Read a head that Keras saved. Raises NotDense if it needs Keras, and HeadError if it is not a Keras model."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(_member(archive, "config.json"))
            entry, *layers = _layers(config)
            with h5py.File(io.BytesIO(_member(archive, "model.weights.h5"))) as weights:
                arrays = {group["vars"].attrs["name"]: group["vars"] for group in weights["layers"].values()}
                nodes = (Node(each["name"], _inputs(each), _step(each, arrays, each is layers[-1])) for each in layers)
                return DenseHead(entry["name"], tuple(nodes))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, zipfile.BadZipFile) as error:
        raise HeadError(f"{path} cannot be loaded: it is not a Keras model ({' '.join(str(error).split())})") from error


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > LARGEST_MEMBER:
        raise ValueError(f"{name} claims {size} bytes")
    return archive.read(name)


def _layers(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The layers, each after those that it needs. Raises NotDense if the first is not the only input, or the last not the output."""
    if config["class_name"] != "Functional":
        raise NotDense(f"it is a {config['class_name']} model")
    layers = config["config"]["layers"]
    ends = [layer["name"] for layer in layers if layer["class_name"] == "InputLayer"], config["config"]["output_layers"]
    if ends != ([layers[0]["name"]], [layers[-1]["name"], 0, 0]):
        raise NotDense("it has several inputs or outputs")
    return layers


def _inputs(layer: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the layers that a layer follows. Raises NotDense if it is used several times."""
    if len(layer["inbound_nodes"]) != 1:
        raise NotDense(f"layer {layer['name']} is used several times")
    given = layer["inbound_nodes"][0]["args"][0]
    return tuple(each["config"]["keras_history"][0] for each in (given if isinstance(given, list) else [given]))


def _step(layer: Mapping[str, Any], arrays: Mapping[str, h5py.Group], is_last: bool) -> Step:
    kind, config = layer["class_name"], layer["config"]
    if kind == "Dropout":
        return _same
    if kind == "Flatten" and config.get("data_format") in (None, "channels_last"):
        return _flat
    if kind in POOLINGS and config.get("data_format") in (None, "channels_last") and not config.get("keepdims"):
        return POOLINGS[kind]
    if kind == "Concatenate" and config["axis"] == -1:
        return _side_by_side
    if kind == "Normalization" and _axes(config) == [-1] and not config.get("invert"):
        return _normalization(np.array(config["mean"], np.float32), np.array(config["variance"], np.float32))
    if kind == "Dense" and config["activation"] in ACTIVATIONS and config.get("use_bias", True):
        kernel, bias = (np.array(arrays[layer["name"]][place], np.float32) for place in "01")
        is_binary = is_last and config["activation"] == "sigmoid" and kernel.shape[1] == 1
        return _dense(kernel, bias, both_sides if is_binary else ACTIVATIONS[config["activation"]])
    raise NotDense(f"layer {layer['name']} is a {kind} that only Keras computes")


def _axes(config: Mapping[str, Any]) -> list[int]:
    axis = config["axis"]
    return axis if isinstance(axis, list) else [axis]


def _same(values: np.ndarray) -> np.ndarray:
    return values


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def _side_by_side(*values: np.ndarray) -> np.ndarray:
    return np.concatenate(values, axis=-1)


def _normalization(mean: np.ndarray, variance: np.ndarray) -> Step:
    deviation = np.maximum(np.sqrt(variance), EPSILON)
    return lambda values: (values - mean) / deviation


def _dense(kernel: np.ndarray, bias: np.ndarray, activation: Step) -> Step:
    return lambda values: activation(values @ kernel + bias)


def _relu(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # exp(-x) overflows to inf, and 1 / inf is the right 0
        return 1 / (1 + np.exp(-values))


def both_sides(logits: np.ndarray) -> np.ndarray:
    """(n, 1) logits of the second class → (n, 2) probabilities.

    One minus the second would round the first, and Keras computes its loss from logits: for a certain mistake that makes a
    difference.
    """
    return np.concatenate([_sigmoid(-logits), _sigmoid(logits)], axis=1)


def _softmax(values: np.ndarray) -> np.ndarray:
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


POOLINGS: dict[str, Step] = {
    "GlobalAveragePooling2D": lambda maps: maps.mean(axis=(1, 2)),
    "GlobalMaxPooling2D": lambda maps: maps.max(axis=(1, 2)),
}
ACTIVATIONS: dict[str, Step] = {"linear": _same, "relu": _relu, "sigmoid": _sigmoid, "softmax": _softmax}
