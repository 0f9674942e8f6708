"""Lowering GroupNormalization for ONNX Runtime, which has no CPU kernel for it and inlines some fifteen nodes."""

import numpy as np
import onnx_ir as ir

from .passes.constants import make_constant
from .passes.replace import replace


def to_instance_norm(model: ir.Model) -> int:
    """GroupNormalization -> InstanceNormalization of [B,groups,-1], then the scale and bias of each channel."""
    count = 0
    for node in list(model.graph):
        if node.op_type != "GroupNormalization" or node.domain:
            continue
        x, scale, bias = node.inputs
        assert x is not None and x.shape is not None and x.dtype is not None
        groups, ones = node.attributes["num_groups"].as_int(), x.dtype.numpy()
        axes = make_constant(node, np.array(range(1, len(x.shape) - 1), np.int64))
        split = ir.node("Reshape", [x, make_constant(node, np.array([0, groups, -1], np.int64))])
        normal = ir.node(
            "InstanceNormalization",
            [
                split.outputs[0],
                make_constant(node, np.ones(groups, ones)),
                make_constant(node, np.zeros(groups, ones)),
            ],
            {"epsilon": node.attributes.get_float("epsilon", 1e-5)},
        )
        sizes = [size if isinstance(size, int) else 0 for size in x.shape]
        if all(isinstance(size, int) for size in list(x.shape)[1:]):
            shape, before = make_constant(node, np.array(sizes, np.int64)), []
        else:
            before = [ir.node("Shape", [x])]
            shape = before[0].outputs[0]
        joined = ir.node("Reshape", [normal.outputs[0], shape])
        by_channel = [ir.node("Unsqueeze", [value, axes]) for value in (scale, bias)]
        scaled = ir.node("Mul", [joined.outputs[0], by_channel[0].outputs[0]])
        shifted = ir.node("Add", [scaled.outputs[0], by_channel[1].outputs[0]])
        replace(model, node, [split, normal, *before, joined, *by_channel, scaled, shifted], shifted.outputs[0])
        count += 1
    return count


def to_channels_last_norm(model: ir.Model) -> int:
    """GroupNormalization of [B,C,h,w], with a SiLU behind it -> com.microsoft.GroupNorm, CUDA's own kernel.

    It works with channels last, as do the convolutions around it: ONNX Runtime cancels the transposes between them.
    """
    count = 0
    for node in list(model.graph):
        if node.op_type != "GroupNormalization" or node.domain:
            continue
        x, scale, bias = node.inputs
        assert x is not None and x.shape is not None
        groups = node.attributes["num_groups"].as_int()
        if len(x.shape) != 4 or not isinstance(x.shape[1], int) or not fits_cuda(x.shape[1] // groups):
            continue
        silu = _silu(node.outputs[0])
        last = ir.node("Transpose", [x], {"perm": [0, 2, 3, 1]})
        floats = [ir.node("Cast", [value], {"to": ir.DataType.FLOAT}) for value in (scale, bias)]
        attributes = {
            "groups": groups,
            "epsilon": node.attributes.get_float("epsilon", 1e-5),
            "activation": int(bool(silu)),
            "channels_last": 1,
        }
        inputs = [last.outputs[0], *(each.outputs[0] for each in floats)]
        norm = ir.node("GroupNorm", inputs, attributes, domain="com.microsoft")
        first = ir.node("Transpose", [norm.outputs[0]], {"perm": [0, 3, 1, 2]})
        if silu:
            ir.convenience.replace_all_uses_with(silu[-1].outputs[0], first.outputs[0], replace_graph_outputs=True)
            model.graph.remove(silu[::-1], safe=True)
        replace(model, node, [last, *floats, norm, first], first.outputs[0])
        count += 1
    if count:
        model.graph.opset_imports["com.microsoft"] = 1
    return count


def fits_cuda(width: int) -> bool:
    """Whether its kernel takes groups of so many channels: its threads take two each, and a block whole groups."""
    return width % 2 == 0 and width <= 256


def _silu(value: ir.Value) -> list[ir.Node]:
    """The nodes of value * Sigmoid(value), where nothing else reads the value."""
    users = {node.op_type: node for node, _ in value.uses()}
    sigmoid, product = users.get("Sigmoid"), users.get("Mul")
    if len(value.uses()) != 2 or sigmoid is None or product is None:
        return []
    inner = sigmoid.outputs[0]
    return [sigmoid, product] if set(product.inputs) == {value, inner} and len(inner.uses()) == 1 else []
