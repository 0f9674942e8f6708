"""The ranges of what goes into each layer and comes out, and at which sizes: outputs added to its fp32 graph."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..nodes import FLOAT, INT64, Nodes, value
from ..worker import RANGE
from .layers import layers

RANGES, SIZES = f"{RANGE}layers", f"{RANGE}sizes"


@dataclass(frozen=True)
class Range:
    """Least and largest values of a layer's input and output, and the largest size of the input."""

    input: tuple[float, float]
    output: tuple[float, float]
    shape: tuple[int, ...]


def observed(model: ir.Model) -> ir.Model:
    """A copy that gives, of every layer, the largest input and output and the least ones negated, f32[layers*4], and
    the rank and sizes of the input, i64[...]: the largest over several runs is then the range of all."""
    model = model.clone()
    nodes, ranges, sizes = Nodes(model.graph), [], []
    seen: dict[ir.Value, list[ir.Value]] = {}
    for layer in layers(model).values():
        for each in (layer.node.inputs[0], layer.node.outputs[0]):
            assert each is not None
            if each not in seen:
                flat = nodes.do("Reshape", each, np.array([-1]))
                ends = nodes.do("ReduceMax", flat, keepdims=1), nodes.do("ReduceMin", flat, keepdims=1)
                seen[each] = [ends[0], nodes.do("Neg", ends[1])]
            ranges += seen[each]
        shape = nodes.do("Shape", layer.node.inputs[0])
        sizes += [nodes.do("Shape", shape), shape]
    for name, dtype, parts in ((RANGES, FLOAT, ranges), (SIZES, INT64, sizes)):
        joined = nodes.do("Concat", *parts, axis=0)
        model.graph.append(ir.node("Identity", [joined], outputs=[value(name, dtype, ["n"])]))
        model.graph.outputs.append(model.graph[-1].outputs[0])
    return model


def read(model: ir.Model, found: dict[str, np.ndarray]) -> dict[str, Range]:
    """What a run of ``observed(model)`` gave, by layer."""
    numbers, sizes, ranges = found[RANGES].reshape(-1, 4).tolist(), list(found[SIZES]), {}
    for name, (in_high, in_low, out_high, out_low) in zip(layers(model), numbers, strict=True):
        (_, *shape), sizes = sizes[: sizes[0] + 1], sizes[sizes[0] + 1 :]
        ranges[name] = Range((-in_low, in_high), (-out_low, out_high), tuple(map(int, shape)))
    return ranges
