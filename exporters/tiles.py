"""The autoencoder in tiles that equal the whole: its graph cut where latents end, group norms told their statistics.

What sees the whole picture in a decoder or encoder is the attention of its middle block and every group norm. The part
with the attention works on a grid of the latents' size and is cheap: it stays whole. The other part, where the memory
goes, is convolutions and norms: with enough pixels around a tile and the norms' mean and variance given, a tile is
computed exactly. Its graph also answers with the statistics of the tile itself, from which the run time finds those of
the whole: see diffrt/components/tiles.py.

    tiled graph    x, norms [K,2,G] f32 (mean and variance of each norm), fixed [] f32 (1: use them, 0: the tile's own),
                   core i64[4] (top, left, bottom, right of the tile without its surroundings, in latent pixels)
                   -> what the part gives, stats [K,2,G] f32 (of the core)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .passes.constants import constant, make_constant
from .passes.replace import replace


@dataclass(frozen=True)
class Cut:
    """A graph in two; `halo` is how many latent pixels around a tile its pixels depend on."""

    whole: ir.Model
    tiled: ir.Model
    halo: int
    norms: int
    groups: int


def cut(model: ir.Model) -> Cut | None:
    """Cut a traced encoder or decoder, which is used up. None where nothing in it changes the resolution."""
    ups = [node for node in model.graph if node.op_type == "Resize"]
    downs = [node for node in model.graph if stride(node) == 2]
    if not ups and not downs:
        return None
    boundary = ups[0].inputs[0] if ups else downs[-1].outputs[0]
    assert boundary is not None
    boundary = as_float32(model, boundary)
    assert boundary.shape is not None
    boundary.name, boundary.shape = "features", ir.Shape([1, boundary.shape[1], "h", "w"])
    if downs:
        measure_at(model, boundary)
    first, last = extract(model, model.graph.inputs, [boundary]), extract(model, [boundary], model.graph.outputs)
    whole, tiled = (first, last) if ups else (last, first)
    halo = math.ceil(reach(tiled, 2 ** len(downs))) + 1
    norms, groups = tell_norms(tiled, 2 ** len(downs))
    return Cut(whole, tiled, halo, norms, groups)


def as_float32(model: ir.Model, value: ir.Value) -> ir.Value:
    """The value itself, or where it is of half precision, the same on its way through float32."""
    node = value.producer()
    assert node is not None and value.dtype is not None
    if value.dtype == ir.DataType.FLOAT:
        return value
    wide = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})
    back = ir.node("Cast", [wide.outputs[0]], {"to": value.dtype})
    ir.convenience.replace_all_uses_with(value, back.outputs[0])
    wide.replace_input_with(0, value)
    for cast, dtype in ((wide, ir.DataType.FLOAT), (back, value.dtype)):
        cast.outputs[0].shape, cast.outputs[0].type = value.shape, ir.TensorType(dtype)
    model.graph.insert_after(node, [wide, back])
    return wide.outputs[0]


def measure_at(model: ir.Model, boundary: ir.Value) -> None:
    """Where the attention gives its pixels their grid back: the boundary's, not one computed from the graph's input."""
    for node in list(model.graph):
        shape = node.inputs[1] if node.op_type == "Reshape" else None
        out = node.outputs[0].shape
        if shape is None or constant(shape) is not None or out is None or len(out) != 4:
            continue
        batch, grid = ir.node("Shape", [boundary], {"end": 1}), ir.node("Shape", [boundary], {"start": 2})
        channels = make_constant(node, np.array([out[1]], np.int64))
        joined = ir.node("Concat", [batch.outputs[0], channels, grid.outputs[0]], {"axis": 0})
        model.graph.insert_before(node, [batch, grid, joined])
        node.replace_input_with(1, joined.outputs[0])


def extract(model: ir.Model, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
    graph = ir.convenience.extract(model.graph, inputs, outputs)
    graph.name = model.graph.name
    return ir.Model(graph, ir_version=model.ir_version)


def stride(node: ir.Node) -> int:
    return node.attributes.get_ints("strides", [1])[0] if node.op_type == "Conv" else 1


def reach(model: ir.Model, scale: int) -> float:
    """How far, in latent pixels, the pixels lie that one pixel of the output depends on. `scale` is how many pixels of
    the input a latent pixel has on a side."""
    total = 0.0
    for node in model.graph:
        if node.op_type == "Conv":
            weight = node.inputs[1]
            assert weight is not None and weight.shape is not None
            total += (weight.shape.numpy()[2] - 1) * stride(node) / 2 / scale  # a stride of 2 reaches to one side alone
            scale //= stride(node)
        elif node.op_type == "Resize":
            scale *= 2
    return total


def tell_norms(model: ir.Model, scale: int) -> tuple[int, int]:
    """GroupNormalization -> x * a + b with a and b of each channel from the statistics that are given, or from the
    core's own. Returns how many there are and how many groups each has."""
    graph = model.graph
    nodes = [node for node in graph if node.op_type == "GroupNormalization"]
    count, groups = len(nodes), nodes[0].attributes["num_groups"].as_int()
    norms = ir.Value(name="norms", shape=ir.Shape([count, 2, groups]), type=ir.TensorType(ir.DataType.FLOAT))
    fixed = ir.Value(name="fixed", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.FLOAT))
    core = ir.Value(name="core", shape=ir.Shape([4]), type=ir.TensorType(ir.DataType.INT64))
    graph.inputs.extend([norms, fixed, core])
    found: list[ir.Value] = []
    for node in list(graph):
        if node.op_type == "Resize":
            scale *= 2
        scale //= stride(node)
        if node.op_type == "GroupNormalization":
            found.append(tell_norm(model, node, len(found), scale, norms, fixed, core))
    last = ir.node("Concat", found, {"axis": 0})
    last.outputs[0].name, last.outputs[0].type = "stats", norms.type
    last.outputs[0].shape = norms.shape
    graph.append(last)
    graph.outputs.append(last.outputs[0])
    return count, groups


def tell_norm(
    model: ir.Model, node: ir.Node, index: int, scale: int, norms: ir.Value, fixed: ir.Value, core: ir.Value
) -> ir.Value:
    """One norm; returns its core's statistics, [1,2,G]."""
    x, gain, bias = node.inputs
    assert x is not None and x.dtype is not None and gain is not None and gain.shape is not None
    channels, groups = gain.shape.numpy()[0], node.attributes["num_groups"].as_int()
    nodes: list[ir.Node] = []

    def do(op: str, *inputs: ir.Value | np.ndarray, **attributes) -> ir.Value:
        values = [make_constant(node, i) if isinstance(i, np.ndarray) else i for i in inputs]
        nodes.append(ir.node(op, values, attributes))
        return nodes[-1].outputs[0]

    def ints(*numbers: int) -> np.ndarray:
        return np.array(numbers, np.int64)

    def as_float(value: ir.Value) -> ir.Value:
        return do("Cast", value, to=ir.DataType.FLOAT)

    edges = do("Mul", core, ints(scale))
    start, end = (do("Slice", edges, ints(i), ints(i + 2), ints(0)) for i in (0, 2))
    flat = do("Reshape", as_float(do("Slice", x, start, end, ints(2, 3))), ints(0, groups, -1))
    mean = do("ReduceMean", flat, ints(2), keepdims=0)
    square = do("ReduceMean", do("Mul", flat, flat), ints(2), keepdims=0)
    variance = do("Sub", square, do("Mul", mean, mean))
    own = do("Concat", *(do("Unsqueeze", each, ints(1)) for each in (mean, variance)), axis=1)  # [1,2,G]
    told = do("Slice", norms, ints(index), ints(index + 1), ints(0))
    used = do("Add", own, do("Mul", do("Sub", told, own), fixed))
    halves = [do("Slice", used, ints(i), ints(i + 1), ints(1)) for i in (0, 1)]
    mean, variance = (do("Reshape", half, ints(1, groups, 1)) for half in halves)
    epsilon = np.array(node.attributes.get_float("epsilon", 1e-5), np.float32)
    size = do("Reciprocal", do("Sqrt", do("Add", variance, epsilon)))
    per_group = ints(1, groups, channels // groups)
    a = do("Mul", do("Reshape", as_float(gain), per_group), size)
    b = do("Sub", do("Reshape", as_float(bias), per_group), do("Mul", mean, a))  # type: ignore[arg-type]
    a, b = (do("Cast", do("Reshape", each, ints(1, channels, 1, 1)), to=x.dtype) for each in (a, b))
    result = do("Add", do("Mul", x, a), b)
    replace(model, node, nodes, result)
    return own
