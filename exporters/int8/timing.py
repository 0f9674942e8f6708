"""Which layers are faster in 8 bits on this machine: each distinct shape is tried both ways, alone."""

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
from .rewriting import quantize, rounded, scaled

RUNS = 7


@dataclass(frozen=True)
class Shape:
    """What the time of a layer depends on."""

    op: str
    input: tuple[int, ...]
    weight: tuple[int, ...]  # as the checkpoint has it
    attributes: tuple[tuple[str, Any], ...]

    @staticmethod
    def of(layer: Layer, shape: tuple[int, ...]) -> "Shape":
        kept = ("pads", "strides", "dilations", "kernel_shape")
        attributes = tuple((key, layer.node.attributes[key].value) for key in kept if key in layer.node.attributes)
        weight = layer.shape[::-1] if layer.transposed else layer.shape
        return Shape(layer.node.op_type, shape, weight, attributes)


def faster(layers: Mapping[str, Layer], ranges: Mapping[str, Range]) -> dict[str, bool]:
    """Of each layer, at the sizes of its range, whether 8 bits win."""
    tried: dict[Shape, bool] = {}
    answers = {}
    for name, layer in layers.items():
        shape = Shape.of(layer, ranges[name].shape)
        if shape not in tried:
            tried[shape] = wins(shape)
        answers[name] = tried[shape]
    return answers


def wins(shape: Shape) -> bool:
    """Both ways run in turns, and the fastest run of each is compared: what else the machine does only adds to one."""
    feeds = {"x": np.random.default_rng(0).standard_normal(shape.input, dtype=np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        sessions = []
        for name, model in (("narrow", alone(shape, quantized=True)), ("wide", alone(shape, quantized=False))):
            ir.save(model, Path(folder) / f"{name}.onnx")
            sessions.append(Session(Path(folder) / f"{name}.onnx", PROVIDERS["cpu"]))
        times = [[seconds(session, feeds) for session in sessions] for _ in range(1 + RUNS)][1:]  # the first warms up
    narrow, wide = (min(each) for each in zip(*times, strict=True))
    return narrow < wide


def seconds(session: Session, feeds: Mapping[str, np.ndarray]) -> float:
    start = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - start


def alone(shape: Shape, quantized: bool) -> ir.Model:
    """A graph of one layer, rounding included."""
    rng = np.random.default_rng(0)
    x = value("x", FLOAT, shape.input)
    weight = value("weight", FLOAT, shape.weight)
    weight.const_value = ir.tensor(rng.standard_normal(shape.weight, dtype=np.float32))
    graph = ir.Graph([x], [], nodes=[], initializers=[weight], opset_imports={"": OPSET}, name="layer")
    nodes = Nodes(graph)
    taken = nodes.do("Transpose", weight, perm=(1, 0)) if shape.op == "MatMul" else weight
    y = nodes.do(shape.op, nodes.do("Identity", x), taken, **dict(shape.attributes))
    graph.append(ir.node("Identity", [y], outputs=[value("y", FLOAT, ["n"] * len(shape.input))]))
    graph.outputs.append(graph[-1].outputs[0])
    model = ir.Model(graph, ir_version=10)
    if quantized:
        quantize(model, {"weight": Range((-4.0, 4.0), (-400.0, 400.0), shape.input)})
        narrow, scales = (graph.initializers[name("weight")] for name in (rounded, scaled))
        assert narrow.shape is not None and scales.shape is not None
        narrow.const_value = ir.tensor(rng.integers(-127, 128, narrow.shape.numpy(), dtype=np.int8))
        scales.const_value = ir.tensor(np.full(scales.shape.numpy(), 0.01, np.float32))
    return model
