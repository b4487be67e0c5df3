"""Export as ONNX. The graph is written layer by layer, so that no converter is needed.

Keras' tensors are (n, height, width, channels), those of ONNX (n, channels, height, width). Every image in the graph is in
the order of ONNX. Everything else has the order of Keras.
"""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vision.errors import SpecError
from vision.export.description import Description

# Old enough for every runtime in use, new enough for each operation here.
OPSET, IR_VERSION = 17, 8


def write(model, path: Path, description: Description) -> None:
    """Write the model with a dynamic batch. The description is in the file's metadata.

    Raises SpecError if the model has a layer that is not in LAYERS.
    """
    from onnx import TensorProto, checker, helper

    graph = Graph()
    result = graph.add_model(_apart(model))
    graph.nodes[-1].output[0] = "probabilities"
    assert result != "probabilities"
    size, classes = description.spec.image_size, len(description.classes)
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            model.name,
            [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", size, size, 3])],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", classes])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="extract-and-train",
    )
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in description.record().items()}
    helper.set_model_props(made, texts)
    checker.check_model(made, full_check=True)
    path.write_bytes(made.SerializeToString())


def _apart(model):
    """The same model with layers of its own. Those of a network from a file also belong to that network, at other sizes."""
    made = type(model).from_config(model.get_config())
    made.set_weights(model.get_weights())
    return made


def load(path: Path):
    """The probabilities that ONNX Runtime gives for the file; None if it is not installed."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})[0]


class Graph:
    """The nodes and constants of an ONNX graph. Each node has one output, whose name is that of the node."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node, and return the name of its output."""
        from onnx import helper

        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        """Append a constant, and return its name."""
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype), name))
        return name

    def add_model(self, model) -> str:
        """Append every layer of a Keras model of pixels, and return the name of its output."""
        from onnx import TensorProto

        pixels = self.add("Cast", "pixels", to=TensorProto.FLOAT)
        names = {id(model.input): self.add("Transpose", pixels, perm=[0, 3, 1, 2])}
        for layer in model.operations[1:]:
            kind = type(layer).__name__
            if kind not in LAYERS:
                raise SpecError(f"`format=onnx`: cannot write layer {layer.name}, a {kind}; `format=saved_model` can")
            given = layer.input if isinstance(layer.input, list) else [layer.input]
            names[id(layer.output)] = LAYERS[kind](self, layer, *(names[id(tensor)] for tensor in given))
        return names[id(model.output)]


def _per_channel(layer, values: Any) -> np.ndarray:
    """Numbers for the channels of the layer's input, in a shape that ONNX broadcasts."""
    array = np.asarray(values, np.float32).reshape(-1)
    return array.reshape(-1, 1, 1) if len(layer.input.shape) == 4 else array


def _same(graph: Graph, layer, x: str) -> str:
    """Where a network starts that Keras loaded from a file."""
    if layer.input.dtype != layer.output.dtype:
        raise SpecError(
            f"`format=onnx`: cannot write layer {layer.name}, which makes {layer.output.dtype} of {layer.input.dtype}; "
            "`format=saved_model` can"
        )
    return x


def _flip(graph: Graph, layer, x: str) -> str:
    channels = layer.input.shape[-1]
    return graph.add("Gather", x, graph.constant(np.arange(channels)[::-1], np.int64), axis=1)


def _rescaling(graph: Graph, layer, x: str) -> str:
    scaled = graph.add("Mul", x, graph.constant(_per_channel(layer, layer.scale)))
    return graph.add("Add", scaled, graph.constant(_per_channel(layer, layer.offset)))


def _convolution(graph: Graph, layer, x: str) -> str:
    kernel = np.asarray(layer.kernel).transpose(3, 2, 0, 1)
    weights = [kernel, np.asarray(layer.bias)] if layer.use_bias else [kernel]
    sides = layer.input.shape[1:3]
    pads = [0, 0, 0, 0]
    if layer.padding == "same":  # TensorFlow puts the odd row or column at the end
        wanted = [
            max(0, (-(-side // stride) - 1) * stride + kernel - side)
            for side, stride, kernel in zip(sides, layer.strides, layer.kernel_size, strict=True)
        ]
        pads = [each // 2 for each in wanted] + [each - each // 2 for each in wanted]
    made = graph.add(
        "Conv",
        x,
        *(graph.constant(array) for array in weights),
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.strides),
        pads=pads,
    )
    return _activation(graph, layer, made)


def _batch_normalization(graph: Graph, layer, x: str) -> str:
    arrays = layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance
    return graph.add("BatchNormalization", x, *map(graph.constant, arrays), epsilon=layer.epsilon)


def _activation(graph: Graph, layer, x: str) -> str:
    from onnx import TensorProto

    name = layer.activation.__name__
    if name == "linear" and layer.compute_dtype == "float16":  # as the store rounds features
        return graph.add("Cast", graph.add("Cast", x, to=TensorProto.FLOAT16), to=TensorProto.FLOAT)
    if name == "linear":
        return x
    if name not in ACTIVATIONS:
        raise SpecError(f"`format=onnx`: cannot write the activation {name} of {layer.name}; `format=saved_model` can")
    return graph.add(ACTIVATIONS[name], x)


def _zero_padding(graph: Graph, layer, x: str) -> str:
    (top, bottom), (left, right) = layer.padding
    return graph.add("Pad", x, graph.constant([0, 0, top, left, 0, 0, bottom, right], np.int64))


def _max_pooling(graph: Graph, layer, x: str) -> str:
    assert layer.padding == "valid"
    return graph.add("MaxPool", x, kernel_shape=list(layer.pool_size), strides=list(layer.strides))


def _flatten(graph: Graph, layer, x: str) -> str:
    if len(layer.input.shape) == 4:
        x = graph.add("Transpose", x, perm=[0, 2, 3, 1])
    return graph.add("Flatten", x)


def _normalization(graph: Graph, layer, x: str) -> str:
    deviation = np.maximum(np.sqrt(np.asarray(layer.variance)), 1e-7)  # keras.backend.epsilon()
    centred = graph.add("Sub", x, graph.constant(_per_channel(layer, layer.mean)))
    return graph.add("Div", centred, graph.constant(_per_channel(layer, deviation)))


def _dense(graph: Graph, layer, x: str) -> str:
    made = graph.add("Gemm", x, graph.constant(layer.kernel), graph.constant(layer.bias))
    return _activation(graph, layer, made)


ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "softmax": "Softmax"}
# What the backbones, the heads and `build_classifier` consist of.
LAYERS: dict[str, Callable[..., str]] = {
    "ConvertToTensor": _same,
    "Flip": _flip,
    "Rescaling": _rescaling,
    "Conv2D": _convolution,
    "BatchNormalization": _batch_normalization,
    "Activation": _activation,
    "ZeroPadding2D": _zero_padding,
    "MaxPooling2D": _max_pooling,
    "GlobalAveragePooling2D": lambda graph, layer, x: graph.add("Flatten", graph.add("GlobalAveragePool", x)),
    "GlobalMaxPooling2D": lambda graph, layer, x: graph.add("Flatten", graph.add("GlobalMaxPool", x)),
    "Add": lambda graph, layer, *x: graph.add("Add", *x),
    "Flatten": _flatten,
    "Normalization": _normalization,
    "Dense": _dense,
    "Dropout": lambda graph, layer, x: x,
    "Concatenate": lambda graph, layer, *x: graph.add("Concat", *x, axis=1),
}
