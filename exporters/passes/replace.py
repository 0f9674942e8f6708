"""Putting new nodes in the place of one."""

import onnx_ir as ir


def replace(model: ir.Model, node: ir.Node, nodes: list[ir.Node], result: ir.Value) -> None:
    """Insert ``nodes`` before ``node``, let ``result`` stand for its output, and remove it."""
    old = node.outputs[0]
    result.name, result.type, result.shape = old.name, old.type, old.shape
    model.graph.insert_before(node, nodes)
    ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
