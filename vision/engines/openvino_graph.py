"""A VGG as a graph of OpenVINO, built from the weights, in floating point or in int8."""

from collections.abc import Sequence

import numpy as np

from vision.backbones import vgg_reference as vgg
from vision.backbones.preprocessing import mode_of
from vision.backbones.weights_file import Tensors
from vision.engines.openvino_library import load_openvino
from vision.specs import FeatureSpec


def vgg_graph(spec: FeatureSpec, tensors: Tensors, ranges: Sequence[float] | None = None):
    """An openvino.Model from (n, size, size, 3) uint8 RGB to the maps (n, height, width, channels) of the last pooling.

    ranges: the largest output of each convolution, which makes the graph int8. Outputs have 256 steps from 0 to their
    range, kernels 255 steps per output channel, symmetric about 0. The first convolution and the output of the last one
    stay float32. Measured with VGG16 on photos: int8 in the first one adds a tenth to the error and saves no time; float32
    in all of the last one saves a tenth of the error and costs 18 % of the time.
    """
    openvino = load_openvino()
    ops = openvino.opset13
    pixels = ops.parameter([-1, spec.image_size, spec.image_size, 3], np.uint8, name="pixels")
    maps = ops.transpose(_preprocessed(ops, pixels, spec), ops.constant(np.array([0, 3, 1, 2])))
    number = 0
    for block in vgg.blocks(tensors):
        for kernel, bias in block:
            if number == 0 and mode_of(spec).is_bgr:
                kernel = kernel[:, :, ::-1]  # the pixels stay RGB
            weights = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
            is_int8 = ranges is not None and number > 0
            if is_int8 and ranges is not None:
                maps = _quantized(ops, maps, 0.0, ranges[number - 1], 256)
            filters = _quantized_filters(ops, weights) if is_int8 else ops.constant(weights)
            maps = ops.convolution(maps, filters, [1, 1], [1, 1], [1, 1], [1, 1])
            maps = ops.relu(ops.add(maps, ops.constant(bias.reshape(1, -1, 1, 1))))
            number += 1
        maps = ops.max_pool(maps, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
    return openvino.Model([ops.transpose(maps, ops.constant(np.array([0, 2, 3, 1])))], [pixels], spec.backbone)


def _preprocessed(ops, pixels, spec: FeatureSpec):
    """As vision/backbones/preprocessing.py, with the channels in RGB order."""
    mode = mode_of(spec)
    scale, offset = (np.broadcast_to(np.asarray(each, np.float32), 3) for each in (mode.scale, mode.offset))
    if mode.is_bgr:
        scale, offset = scale[::-1], offset[::-1]
    values = ops.convert(pixels, "f32")
    if (scale != 1).any():
        values = ops.multiply(values, ops.constant(np.ascontiguousarray(scale)))
    values = ops.add(values, ops.constant(np.ascontiguousarray(offset)))
    return values if spec.rescale == 1.0 else ops.multiply(values, ops.constant(np.float32(spec.rescale)))


def _quantized_filters(ops, weights: np.ndarray):
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    largest = np.where(largest > 0, largest, np.float32(1))  # a filter of zeros
    return _quantized(ops, ops.constant(weights), -largest, largest, 255)


def _quantized(ops, values, low, high, levels: int):
    ends = [ops.constant(np.float32(each)) for each in (low, high, low, high)]
    return ops.fake_quantize(values, *ends, levels=levels)
