"""Chosen nodes of an fp16 graph -> the same nodes computing in fp32, with Casts at the edges of each fp32 region.

Neighbours that are both chosen pass fp32 on: a Cast pair between them never comes about.
"""

from collections.abc import Iterable

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from .identities import remove_identities

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT


def infer_types(model: ir.Model) -> None:
    """Give every value its dtype: tracing leaves many without. Shapes stay as they are."""
    for node, twin in zip(model.graph, ShapeInferencePass()(model.clone()).model.graph, strict=True):
        for output, inferred in zip(node.outputs, twin.outputs, strict=True):
            if output.dtype is None:
                output.type = inferred.type


def widen(model: ir.Model, nodes: Iterable[ir.Node]) -> int:
    """Rewrite ``nodes``, every value of the graph having its dtype. Returns how many of them were fp16."""
    chosen, count = set(nodes), 0
    wide: dict[ir.Value, ir.Value] = {}  # an fp16 value -> the same in fp32
    narrowed: list[tuple[ir.Value, ir.Value]] = []  # what chosen nodes give, and its cast to fp16
    for node in list(model.graph):
        if node not in chosen:
            continue
        halves = [output for output in node.outputs if output.dtype == HALF]
        count += bool(halves)
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == HALF:
                if value not in wide:
                    wide[value] = cast(value, FLOAT)
                    model.graph.insert_before(node, wide[value].producer())  # type: ignore[arg-type]
                node.replace_input_with(index, wide[value])
        if node.op_type == "Cast" and halves:
            node.attributes["to"] = ir.AttrInt64("to", FLOAT)
        for output in halves:
            users = list(output.uses())
            output.type = ir.TensorType(FLOAT)  # a new one: clones share it with their original
            narrow = cast(output, HALF)
            model.graph.insert_after(node, narrow.producer())  # type: ignore[arg-type]
            for user, index in users:
                user.replace_input_with(index, narrow)
            wide[narrow] = output
            narrowed.append((output, narrow))
    for output, narrow in narrowed:
        for user, index in list(narrow.uses()):
            if user.op_type in ("Cast", "Shape"):  # neither needs the value to be fp16
                user.replace_input_with(index, output)
    remove_identities(model)
    RemoveUnusedNodesPass()(model)
    return count


def cast(value: ir.Value, dtype: ir.DataType) -> ir.Value:
    output = ir.node("Cast", [value], {"to": dtype}).outputs[0]
    output.type, output.shape = ir.TensorType(dtype), value.shape
    return output
