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
