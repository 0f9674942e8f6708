"""The layers of a traced graph that could compute in 8 bits."""

from dataclasses import dataclass

import onnx_ir as ir

NARROW = 16  # channels, below which a layer is at an end of the network: its error is all of the output's


@dataclass(frozen=True)
class Layer:
    """A Conv or MatMul whose weight is a tensor of the checkpoint, or a part of one."""

    node: ir.Node
    weight: ir.Value  # the checkpoint's tensor
    outputs: int  # channels
    scale_axis: int  # of the node's own weight, along which they lie


def layers(model: ir.Model) -> dict[str, Layer]:
    """By a name that a graph of another picture size has too: the tensor's, and which part of it."""
    ends = {*model.graph.inputs, *model.graph.outputs}
    found = {}
    for node in model.graph:
        if node.domain or node.op_type not in ("Conv", "MatMul") or node.attributes.get_int("group", 1) != 1:
            continue
        weight, part, parts = source(node.inputs[1])
        if weight is None or weight.shape is None or ends & {node.inputs[0], node.outputs[0]}:
            continue
        sizes = weight.shape[:2]
        if all(isinstance(size, int) and size >= NARROW for size in sizes):
            outputs = int(sizes[0]) // parts  # type: ignore[arg-type]
            found[f"{weight.name}{part}"] = Layer(node, weight, outputs, 0 if node.op_type == "Conv" else 1)
    return found


def source(value: ir.Value | None) -> tuple[ir.Value | None, str, int]:
    """The initializer that a weight is, or a part of, which part ("[1]" the second) and of how many. None: it is
    computed."""
    part, parts = "", 1
    while value is not None and not value.is_initializer():
        node = value.producer()
        if node is None or node.op_type not in ("Transpose", "Split"):
            return None, "", 1
        if node.op_type == "Split":
            part, parts = f"[{node.outputs.index(value)}]", len(node.outputs)
        value = node.inputs[0]
    return value, part, parts
