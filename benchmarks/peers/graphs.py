"""Peers on an exported graph: ONNX Runtime and OpenVINO, float32, with decoding and writing beside inference."""

import argparse
from pathlib import Path

import numpy as np

from peers.photos import SIZE, Photo
from peers.processes import Run, run_processes

MEANS = np.array([123.68, 116.779, 103.939], np.float32)  # RGB; Keras' "caffe" mode


def onnxruntime(photos: list[Photo], given: argparse.Namespace) -> dict:
    return run_processes(photos, given, build_onnxruntime, _settings(given, batch=8, processes=2, threads=1))


def openvino(photos: list[Photo], given: argparse.Namespace) -> dict:
    return run_processes(photos, given, build_openvino, _settings(given, batch=8, processes=2, threads=1))


def openvino_native(photos: list[Photo], given: argparse.Namespace) -> dict:
    """OpenVINO as it comes: on a processor with bfloat16 it computes in that."""
    settings = _settings(given, batch=8, processes=2, threads=1) | {"precision": "the processor's own"}
    return run_processes(photos, given, build_openvino_native, settings)


def _settings(given: argparse.Namespace, batch: int, processes: int, threads: int) -> dict:
    return {
        "batch": given.batch or batch,
        "processes": given.processes or processes,
        "threads": given.threads or threads,
        "decode_threads": 1,
        "precision": "float32",
        "files": "an npz for a batch, written by a thread",
    }


def build_onnxruntime(weights: Path, batch: int, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(vgg16_onnx(weights, batch), options, ["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})[0]


def build_openvino(weights: Path, batch: int, threads: int) -> Run:
    return _openvino(weights, batch, threads, {"INFERENCE_PRECISION_HINT": "f32"})


def build_openvino_native(weights: Path, batch: int, threads: int) -> Run:
    return _openvino(weights, batch, threads, {})


def _openvino(weights: Path, batch: int, threads: int, precision: dict[str, str]) -> Run:
    from vision.engines.openvino_library import new_core

    core = new_core()
    model = core.compile_model(
        core.read_model(vgg16_onnx(weights, batch)),
        "CPU",
        precision
        | {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # otherwise two processes may choose the same core
        },
    )
    request = model.create_infer_request()

    def run(pixels: np.ndarray) -> np.ndarray:
        return request.infer({0: pixels}, share_inputs=True)[0].copy()  # the request owns its output

    return run


def vgg16_onnx(weights: Path, batch: int) -> bytes:
    """VGG16 without its top as ONNX: (batch, 224, 224, 3) uint8 RGB → (batch, 7, 7, 512) float32.

    The first kernel includes Keras' BGR order. The graph subtracts the means, since a convolution pads its input after
    that.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    from vision.backbones.weights_file import read_weights
    from vision.specs import BACKBONES

    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "means"], ["centred"]),
        helper.make_node("Transpose", ["centred"], ["planes"], perm=[0, 3, 1, 2]),
    ]
    constants = [numpy_helper.from_array(MEANS, "means")]
    last, block = "planes", "block1"
    for name, (kernel, bias) in read_weights(BACKBONES["vgg16"], weights).items():
        if not name.startswith(block):
            nodes.append(_pooling(helper, last, f"{block}_pool"))
            last, block = f"{block}_pool", name.partition("_")[0]
        turned = kernel[:, :, ::-1] if name == "block1_conv1" else kernel
        planes = np.ascontiguousarray(turned.transpose(3, 2, 0, 1))
        constants += [numpy_helper.from_array(planes, f"{name}_kernel"), numpy_helper.from_array(bias, f"{name}_bias")]
        inputs = [last, f"{name}_kernel", f"{name}_bias"]
        nodes.append(helper.make_node("Conv", inputs, [name], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [name], [f"{name}_relu"]))
        last = f"{name}_relu"
    nodes.append(_pooling(helper, last, "pooled"))
    nodes.append(helper.make_node("Transpose", ["pooled"], ["features"], perm=[0, 2, 3, 1]))
    graph = helper.make_graph(
        nodes,
        "vgg16",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [batch, SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, SIZE // 32, SIZE // 32, 512])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    return model.SerializeToString()


def _pooling(helper, source: str, target: str):
    return helper.make_node("MaxPool", [source], [target], kernel_shape=[2, 2], strides=[2, 2])
