"""Lowering the opset-23 Attention nodes of a traced graph: to ONNX Runtime's own op, or to query chunks."""

import numpy as np
import onnx_ir as ir

from .passes.constants import make_constant
from .passes.replace import replace

SLICES = 32  # query chunks of the sliced form


def plain(node: ir.Node) -> bool:
    """Attention on [B,L,D] without mask, with as many key heads as query heads."""
    heads = [node.attributes.get_int(f"{side}_num_heads", 0) for side in ("q", "kv")]
    return (
        (node.op_type, node.domain, len(node.inputs), len(node.outputs)) == ("Attention", "", 3, 1)
        and heads[0] == heads[1] > 0
        and not node.attributes.get_int("is_causal", 0)
        and not node.attributes.get_float("softcap", 0.0)
    )


def to_multi_head(model: ir.Model) -> int:
    """Attention without mask -> com.microsoft.MultiHeadAttention."""
    count = 0
    for node in list(model.graph):
        if not plain(node):
            continue
        attributes: dict[str, int | float] = {"num_heads": node.attributes["q_num_heads"].as_int()}
        if "scale" in node.attributes:
            attributes["scale"] = node.attributes["scale"].as_float()
        new = ir.node("MultiHeadAttention", list(node.inputs), attributes, domain="com.microsoft")
        replace(model, node, [new], new.outputs[0])
        count += 1
    if count:
        model.graph.opset_imports["com.microsoft"] = 1
    return count


def to_query_chunks(model: ir.Model) -> int:
    """Self-attention -> Pad, Reshape to [B,slices,chunk,D], Scan over slices, Reshape, Slice back to L."""
    count = 0
    for node in list(model.graph):
        if not plain(node):
            continue
        query, key, value = node.inputs
        assert query is not None and key is not None and query.shape is not None and key.shape is not None
        if query.shape[1] != key.shape[1]:
            continue  # cross-attention: its score matrix is small
        width = query.shape[2]
        constants = {
            "slices": np.array([SLICES], np.int64),
            "zero": np.array([0], np.int64), "axis": np.array([1], np.int64),
            "split": np.array([0, SLICES, -1, width], np.int64), "join": np.array([0, -1, width], np.int64),
        }  # fmt: skip
        k = {name: make_constant(node, array) for name, array in constants.items()}
        length = ir.node("Shape", [query], {"start": 1, "end": 2})
        negative = ir.node("Neg", [length.outputs[0]])
        missing = ir.node("Mod", [negative.outputs[0], k["slices"]])  # (-L) mod slices, in 0..slices-1
        pads = ir.node("Concat", [k["zero"], missing.outputs[0]], {"axis": 0})
        padded = ir.node("Pad", [query, pads.outputs[0], None, k["axis"]])
        split = ir.node("Reshape", [padded.outputs[0], k["split"]])

        chunk = ir.Value(name="query_chunk", type=query.type)
        inner = ir.node("Attention", [chunk, key, value], dict(node.attributes))
        inner.outputs[0].name, inner.outputs[0].type = "attended_chunk", query.type
        body = ir.Graph([chunk], [inner.outputs[0]], nodes=[inner], name="slice")
        scan = ir.node(
            "Scan",
            [split.outputs[0]],
            {"body": body, "num_scan_inputs": 1, "scan_input_axes": [1], "scan_output_axes": [1]},
        )
        join = ir.node("Reshape", [scan.outputs[0], k["join"]])
        cut = ir.node("Slice", [join.outputs[0], k["zero"], length.outputs[0], k["axis"]])
        replace(model, node, [length, negative, missing, pads, padded, split, scan, join, cut], cut.outputs[0])
        count += 1
    return count
