"""How large each value of an fp16 graph becomes, measured on its fp32 twin, and which nodes are too large for fp16.

float16 ends at 65504. The ranges are those of a few small pictures, and other prompts, seeds and sizes go further: the
largest of n values grows slowly with n, and two powers of two are left to it. Norms need no measure of their own: their
sums are float32 by definition (stash_type 1) and in ONNX Runtime's CUDA kernels. The logits of attention do, since a
kernel that is not fused keeps them in fp16; for them |q| |k| scale of each head is an upper bound.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .passes.widen import FLOAT, HALF, widen
from .worker import RANGE

OUTPUTS, LOGITS = f"{RANGE}outputs", f"{RANGE}logits"
FACTOR = 4
LIMIT = 65504 / FACTOR
# operators that bring no magnitude that was not in their input; a graph of fixed size has fewer of them
MOVERS = {"Concat", "Expand", "Gather", "GatherND", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze",
          "Transpose", "Unsqueeze"}  # fmt: skip


@dataclass(frozen=True)
class Ranges:
    """The largest magnitudes in the order of `computing`; logits of the Attention nodes alone."""

    outputs: np.ndarray  # f32[nodes]
    logits: np.ndarray  # f32[Attention nodes]


def computing(model: ir.Model) -> list[ir.Node]:
    """The nodes that compute in fp16, in order: the same whether sizes are fixed or not."""
    idle = MOVERS | {"Constant"}
    return [node for node in model.graph if node.outputs[0].dtype == HALF and node.op_type not in idle]


def attentions(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    return [node for node in nodes if node.op_type == "Attention"]


def observed(model: ir.Model) -> ir.Model:
    """A copy that computes in fp32 and gives its ranges as further outputs, f32[nodes] and f32[Attention nodes]."""
    model = model.clone()
    nodes = computing(model)
    for name, values in (
        (OUTPUTS, [largest(model, node.outputs[0]) for node in nodes]),
        (LOGITS, [largest_logit(model, node) for node in attentions(nodes)]),
    ):
        if values:
            result = add(model, "Cast", add(model, "Concat", *values, axis=0), to=FLOAT)
            result.name, result.type, result.shape = name, ir.TensorType(FLOAT), ir.Shape([len(values)])
            model.graph.outputs.append(result)
    widen(model, [node for node in model.graph if node.op_type != "Constant"])
    return model


def add(model: ir.Model, op: str, *inputs: ir.Value | list[int] | float, **attributes: int) -> ir.Value:
    """Append a node of its first input's dtype; numbers among its inputs become Constants."""
    values = []
    for value in inputs:
        if not isinstance(value, ir.Value):
            dtype = HALF if isinstance(value, float) else ir.DataType.INT64
            constant = ir.node("Constant", [], {"value": ir.tensor(value, dtype)})
            model.graph.append(constant)
            value = constant.outputs[0]
            value.type = ir.TensorType(dtype)
        values.append(value)
    node = ir.node(op, values, attributes)
    model.graph.append(node)
    node.outputs[0].type = values[0].type
    return node.outputs[0]


def largest(model: ir.Model, value: ir.Value) -> ir.Value:
    """max |value| as f32[1]."""
    return add(model, "ReduceMax", add(model, "Reshape", add(model, "Abs", value), [-1]), keepdims=1)


def largest_logit(model: ir.Model, node: ir.Node) -> ir.Value:
    """An upper bound of an Attention node's scaled logits as f32[1]: of each head and picture, the longest query times
    the longest key (Cauchy-Schwarz)."""
    lengths, width = [], 1
    for value, heads in zip(node.inputs[:2], ("q_num_heads", "kv_num_heads"), strict=True):
        assert value is not None and value.shape is not None
        last, axis = value.shape[-1], 2  # [B,heads,L,d]
        assert isinstance(last, int)
        width = last
        if heads in node.attributes:  # [B,L,heads*d]
            width, axis = last // node.attributes[heads].as_int(), 1
            value = add(model, "Reshape", value, [0, 0, node.attributes[heads].as_int(), width])
        lengths.append(add(model, "ReduceMax", add(model, "ReduceL2", value, [-1], keepdims=0), [axis], keepdims=0))
    scale = node.attributes.get_float("scale", width**-0.5)
    return largest(model, add(model, "Mul", add(model, "Mul", *lengths), scale))


def beyond(model: ir.Model, ranges: Ranges) -> tuple[list[ir.Node], dict[str, float]]:
    """The nodes of a traced graph that must compute in fp32, and which of them are the cause: label -> magnitude.

    A value beyond the limit makes its node, every node that moves it and every node that takes it compute in fp32.
    """
    nodes = computing(model)
    size = dict(zip(nodes, ranges.outputs, strict=True))
    logit = dict(zip(attentions(nodes), ranges.logits, strict=True))
    large: set[ir.Value | None] = set()
    chosen, causes = [], {}
    for node in model.graph:
        taken = any(value in large for value in node.inputs)
        worst = max(size.get(node, 0.0), logit.get(node, 0.0))
        if size.get(node, 0.0) > LIMIT or (taken and node.op_type in MOVERS):
            large.update(node.outputs)
        if taken or worst > LIMIT:
            chosen.append(node)
        if worst > LIMIT:
            causes[label(node)] = float(f"{worst:.3g}")
    return chosen, causes


def label(node: ir.Node) -> str:
    """A node's module in the checkpoint, operator and output."""
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
    module = next((s.partition(".")[2] for s in reversed(scopes) if s.startswith("module.")), "")
    return f"{module} {node.op_type} {node.outputs[0].name}".lstrip()
