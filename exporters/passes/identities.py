"""Nodes that change nothing: casts to the same type, slices of everything, reshapes to the same shape."""

import numpy as np
import onnx_ir as ir

from .constants import constant


def known(shape: ir.Shape) -> bool:
    """Whether every size is a number or a name: two unknown sizes only look equal."""
    return all(isinstance(size, int) or size.value is not None for size in shape)


def changes_nothing(node: ir.Node) -> bool:
    source, target = (node.inputs[0] if node.inputs else None), node.outputs[0]
    if source is None or node.domain:
        return False
    match node.op_type:
        case "Identity":
            return True
        case "Cast":
            return source.dtype is not None and source.dtype == node.attributes["to"].as_int()
        case "Reshape" | "Expand":
            return source.shape is not None and known(source.shape) and source.shape == target.shape
        case "Slice":
            starts, ends, _, steps = (constant(value) for value in (*node.inputs[1:], None, None)[:4])
            return (
                starts is not None and not starts.any()
                and ends is not None and bool((ends >= np.iinfo(np.int64).max).all())
                and (len(node.inputs) < 5 or (steps is not None and bool((steps == 1).all())))
            )  # fmt: skip
    return False


def remove_identities(model: ir.Model) -> int:
    count = 0
    for node in list(model.graph):
        if changes_nothing(node) and not node.outputs[0].is_graph_output():
            ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])  # type: ignore[arg-type]
            model.graph.remove(node, safe=True)
            count += 1
    return count
