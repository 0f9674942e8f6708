"""SplitToSequence, then SequenceAt for each part -> one Split (sequence types stop other providers' partitioners)."""

import numpy as np
import onnx_ir as ir

from .constants import constant, make_constant


def merge_splits(model: ir.Model) -> int:
    count = 0
    for node in list(model.graph):
        if node.op_type != "SplitToSequence" or len(node.inputs) < 2:
            continue
        uses = [use.node for use in node.outputs[0].uses()]
        sizes, axis = constant(node.inputs[1]), node.attributes.get_int("axis", 0)
        places = [constant(use.inputs[1]) for use in uses if use.op_type == "SequenceAt"]
        whole = node.inputs[0]
        if sizes is None or len(places) != len(uses) or any(p is None for p in places) or whole is None:
            continue
        if any(use.outputs[0].is_graph_output() for use in uses):
            continue
        if sizes.ndim == 0:  # one size for every part: their number is known where the axis is static
            total = whole.shape[axis] if whole.shape is not None else None
            if not isinstance(total, int):
                continue
            sizes = np.diff(np.append(np.arange(0, total, int(sizes)), total))
        parts = ir.node(
            "Split",
            [whole, make_constant(node, sizes.astype(np.int64))],
            {"axis": axis},
            num_outputs=len(sizes),
        )
        model.graph.insert_before(node, parts)
        for use, place in zip(uses, places, strict=True):
            part = parts.outputs[int(place)]  # type: ignore[arg-type]
            part.type, part.shape = use.outputs[0].type, use.outputs[0].shape
            ir.convenience.replace_all_uses_with(use.outputs[0], part)
        count += 1
    return count
