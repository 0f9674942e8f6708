"""Attention on [B,heads,L,D/heads] between Reshapes and Transposes -> Attention on [B,L,D], which splits heads itself.

It is the form both the opset-23 op and com.microsoft.MultiHeadAttention take, so that lowering swaps one node.
"""

from typing import TypeGuard

import onnx_ir as ir


def unsplit(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """The [B,L,D] value that was split into heads and transposed into ``value``, and the number of heads."""
    transpose = value.producer() if value is not None else None
    if (
        transpose is None
        or transpose.op_type != "Transpose"
        or tuple(transpose.attributes["perm"].as_ints()) != (0, 2, 1, 3)
    ):
        return None
    split = transpose.inputs[0].producer()  # type: ignore[union-attr]
    if split is None or split.op_type != "Reshape" or split.inputs[0] is None:
        return None
    whole, parts = split.inputs[0], split.outputs[0].shape
    if whole.shape is None or parts is None or len(whole.shape) != 3 or len(parts) != 4:
        return None
    return (whole, parts[2]) if joins(parts[2], parts[3], whole.shape[2]) else None


def joins(heads: ir.SymbolicDim | int, width: ir.SymbolicDim | int, whole: ir.SymbolicDim | int) -> TypeGuard[int]:
    return isinstance(heads, int) and isinstance(width, int) and heads * width == whole


def merged(value: ir.Value) -> ir.Value | None:
    """The [B,L,D] value that ``value`` becomes, where it is only transposed back and its heads joined."""
    users = [use.node for use in value.uses()]
    if (
        len(users) != 1
        or users[0].op_type != "Transpose"
        or tuple(users[0].attributes["perm"].as_ints()) != (0, 2, 1, 3)
    ):
        return None
    users = [use.node for use in users[0].outputs[0].uses()]
    if len(users) != 1 or users[0].op_type != "Reshape":
        return None
    parts, shape = value.shape, users[0].outputs[0].shape
    if parts is None or shape is None or len(parts) != 4 or len(shape) != 3:
        return None
    return users[0].outputs[0] if joins(parts[1], parts[3], shape[2]) else None


def attention_3d(model: ir.Model) -> int:
    count = 0
    for node in list(model.graph):
        if node.op_type != "Attention" or node.domain or len(node.outputs) != 1:
            continue
        sources, result = [unsplit(value) for value in node.inputs[:3]], merged(node.outputs[0])
        if any(source is None for source in sources) or result is None:
            continue
        heads = [source[1] for source in sources]  # type: ignore[index]
        attributes = {**node.attributes, "q_num_heads": heads[0], "kv_num_heads": heads[1]}
        new = ir.node("Attention", [source[0] for source in sources] + list(node.inputs[3:]), attributes)  # type: ignore[index]
        new.metadata_props.update(node.metadata_props)
        output = new.outputs[0]
        output.name, output.type, output.shape = result.name, result.type, result.shape
        model.graph.insert_before(node, new)
        ir.convenience.replace_all_uses_with(result, output, replace_graph_outputs=True)
        count += 1
    return count
