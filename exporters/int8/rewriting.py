"""QuantizeLinear and DequantizeLinear around chosen layers: the form from which every runtime makes its own kernels."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..nodes import FLOAT, UINT8, value
from ..passes.constants import make_constant
from .calibration import Range
from .layers import layers

INT8 = ir.DataType.INT8
LEVELS = 255  # steps of an unsigned activation


def rounded(layer: str) -> str:
    """What the weight of a layer is called in 8 bits, i8 as the layer's node takes it."""
    return f"{layer}.int8"


def scaled(layer: str) -> str:
    """What the scales of that weight are called, f32[outputs]."""
    return f"{layer}.scale"


def quantize(model: ir.Model, ranges: Mapping[str, Range]) -> int:
    """Rewrite the layers that have a range, in place: they take initializers in 8 bits, with scales beside them.

    Those are as each node takes them, and not transposed or split in the graph: OpenVINO (2026.4) would compute in
    bfloat16 then. Returns how many layers.
    """
    narrow: dict[ir.Value, ir.Value] = {}  # an activation -> the same in 8 bits
    found = {name: layer for name, layer in layers(model).items() if name in ranges}
    for name, layer in found.items():
        node, x = layer.node, layer.node.inputs[0]
        assert x is not None
        if x not in narrow:
            narrow[x] = through(node, x, ranges[name].input)
        weight = value(rounded(name), INT8, layer.shape)
        scales = value(scaled(name), FLOAT, [layer.shape[layer.outputs_axis]])
        for initializer in (weight, scales):
            model.graph.initializers.add(initializer)
        whole = ir.node("DequantizeLinear", [weight, scales], {"axis": layer.outputs_axis})
        whole.outputs[0].type, whole.outputs[0].shape = ir.TensorType(FLOAT), weight.shape
        model.graph.insert_before(node, whole)
        node.replace_input_with(0, narrow[x])
        node.replace_input_with(1, whole.outputs[0])
        if node.op_type == "Conv":
            output = node.outputs[0]
            uses = list(output.uses())
            replaced = through(node, output, ranges[name].output, after=True)
            for user, index in uses:
                user.replace_input_with(index, replaced)
    RemoveUnusedNodesPass()(model)  # what the weights came from
    resize_all_axes(model)
    return len(found)


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
