"""Which layers are faster in 8 bits on this machine: each distinct shape is tried both ways, alone."""

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from diffrt.providers import PROVIDERS
from diffrt.session import Session

from ..nodes import FLOAT, Nodes, value
from ..trace import OPSET
from .calibration import Range
from .layers import Layer
from .rewriting import quantize

RUNS = 5


@dataclass(frozen=True)
class Shape:
    """What the time of a layer depends on."""

    op: str
    input: tuple[int, ...]
    weight: tuple[int, ...]  # as the node takes it
    attributes: tuple[tuple[str, Any], ...]

    @staticmethod
    def of(layer: Layer, shape: tuple[int, ...]) -> "Shape":
        weight = layer.weight.shape.numpy() if layer.weight.shape is not None else ()
        if layer.node.op_type == "MatMul":
            weight = shape[-1], layer.outputs
        kept = ("pads", "strides", "dilations", "kernel_shape")
        attributes = tuple((key, layer.node.attributes[key].value) for key in kept if key in layer.node.attributes)
        return Shape(layer.node.op_type, shape, weight, attributes)


def faster(layers: Mapping[str, Layer], ranges: Mapping[str, Range]) -> dict[str, bool]:
    """Of each layer, at the sizes of its range, whether 8 bits win."""
    tried: dict[Shape, bool] = {}
    answers = {}
    for name, layer in layers.items():
        shape = Shape.of(layer, ranges[name].shape)
        if shape not in tried:
            tried[shape] = seconds(shape, True) < seconds(shape, False)
        answers[name] = tried[shape]
    return answers


def seconds(shape: Shape, quantized: bool) -> float:
    """The median of a few runs of a graph of one layer, rounding included."""
    rng = np.random.default_rng(0)
    x = value("x", FLOAT, shape.input)
    weight = value("weight", FLOAT, shape.weight)
    weight.const_value = ir.tensor(rng.standard_normal(shape.weight, dtype=np.float32))
    graph = ir.Graph([x], [], nodes=[], initializers=[weight], opset_imports={"": OPSET}, name="layer")
    nodes = Nodes(graph)
    y = nodes.do(shape.op, nodes.do("Identity", x), weight, **dict(shape.attributes))
    graph.append(ir.node("Identity", [y], outputs=[value("y", FLOAT, ["n"] * len(shape.input))]))
    graph.outputs.append(graph[-1].outputs[0])
    model = ir.Model(graph, ir_version=10)
    if quantized:
        quantize(model, {"weight": Range((-4.0, 4.0), (-400.0, 400.0), shape.input)})
        outputs = shape.weight[0 if shape.op == "Conv" else 1]
        weight.const_value = ir.tensor(rng.integers(-127, 128, shape.weight, dtype=np.int8))
        graph.initializers["weight_scale"].const_value = ir.tensor(np.full(outputs, 0.01, np.float32))
    with tempfile.TemporaryDirectory() as folder:
        ir.save(model, Path(folder) / "layer.onnx")
        session = Session(Path(folder) / "layer.onnx", PROVIDERS["cpu"])
        feeds, times = {"x": rng.standard_normal(shape.input, dtype=np.float32)}, []
        for _ in range(RUNS + 1):
            start = time.perf_counter()
            session.run(feeds)
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
