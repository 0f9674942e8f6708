"""QuantizeLinear and DequantizeLinear around chosen layers: the form from which every runtime makes its own kernels."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ..nodes import FLOAT, UINT8, value
from ..passes.constants import make_constant
from .calibration import Range
from .layers import Layer, layers

INT8 = ir.DataType.INT8
LEVELS = 255  # steps of an unsigned activation


def scaled(name: str) -> str:
    """What the scales of a weight are called, f32[outputs]."""
    return f"{name}_scale"


def quantize(model: ir.Model, ranges: Mapping[str, Range]) -> int:
    """Rewrite the layers that have a range, in place: weights become int8 initializers of the same name, with scales
    beside them. Returns how many layers."""
    rounded: dict[ir.Value, ir.Value] = {}  # an activation -> the same in 8 bits
    scales: dict[ir.Value, ir.Value] = {}
    found = {name: layer for name, layer in layers(model).items() if name in ranges}
    for name, layer in found.items():
        node, x = layer.node, layer.node.inputs[0]
        assert x is not None
        if x not in rounded:
            rounded[x] = through(node, x, ranges[name].input)
        weight, own = layer.weight, node.inputs[1]
        assert weight.shape is not None and own is not None
        if weight not in scales:
            scales[weight] = value(scaled(str(weight.name)), FLOAT, weight.shape[:1])
            model.graph.initializers[scaled(str(weight.name))] = scales[weight]
            weight.type = ir.TensorType(INT8)
        whole = ir.node("DequantizeLinear", [own, part(layer, scales[weight])], {"axis": layer.scale_axis})
        whole.outputs[0].type, whole.outputs[0].shape = ir.TensorType(FLOAT), own.shape
        model.graph.insert_before(node, whole)
        node.replace_input_with(0, rounded[x])
        node.replace_input_with(1, whole.outputs[0])
        if node.op_type == "Conv":
            output = node.outputs[0]
            uses = list(output.uses())
            replaced = through(node, output, ranges[name].output, after=True)
            for user, index in uses:
                user.replace_input_with(index, replaced)
    resize_all_axes(model)
    return len(found)


def part(layer: Layer, scales: ir.Value) -> ir.Value:
    """Of the scales, those of the part of the weight that a layer takes."""
    taken = layer.node.inputs[1]
    while taken is not None and taken is not layer.weight:
        node = taken.producer()
        assert node is not None and layer.node.graph is not None
        if node.op_type == "Split":
            parts = ir.node("Split", [scales, *node.inputs[1:]], dict(node.attributes), num_outputs=len(node.outputs))
            layer.node.graph.insert_before(layer.node, parts)
            return parts.outputs[node.outputs.index(taken)]
        taken = node.inputs[0]
    return scales


def through(node: ir.Node, x: ir.Value, ends: tuple[float, float], after: bool = False) -> ir.Value:
    """x rounded to 255 steps between both ends and zero, before the node or after it."""
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    step = (high - low) / LEVELS or 1.0
    scale, zero = np.array(step, np.float32), np.array(round(-low / step), np.uint8)
    constants = [make_constant(node, array) for array in (scale, zero)]
    down = ir.node("QuantizeLinear", [x, *constants])
    up = ir.node("DequantizeLinear", [down.outputs[0], *constants])
    down.outputs[0].type, up.outputs[0].type = ir.TensorType(UINT8), ir.TensorType(FLOAT)
    down.outputs[0].shape = up.outputs[0].shape = x.shape
    graph = node.graph
    assert graph is not None
    (graph.insert_after if after else graph.insert_before)(node, [down, up])
    return up.outputs[0]


def resize_all_axes(model: ir.Model) -> int:
    """Resize of axes 2 and 3 -> of all four, which ONNX Runtime's layout optimizer (1.32) takes its sizes to be of; it
    runs for quantized convolutions."""
    count = 0
    for node in list(model.graph):
        if node.op_type != "Resize" or "axes" not in node.attributes:
            continue
        head = ir.node("Shape", [node.inputs[0]], {"end": 2})
        sizes = ir.node("Concat", [head.outputs[0], node.inputs[3]], {"axis": 0})
        model.graph.insert_before(node, [head, sizes])
        node.replace_input_with(3, sizes.outputs[0])
        del node.attributes["axes"]
        count += 1
    return count
