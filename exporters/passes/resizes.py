"""Resize to [Shape(x)[:2], h, w] -> Resize of axes 2 and 3: no shape arithmetic where the sizes are static."""

import onnx_ir as ir


def resize_spatial(model: ir.Model) -> int:
    count = 0
    for node in list(model.graph):
        joined = (
            node.inputs[3].producer() if node.op_type == "Resize" and len(node.inputs) > 3 and node.inputs[3] else None
        )
        if joined is None or joined.op_type != "Concat" or joined.inputs[0] is None:
            continue
        if node.inputs[0] is None or node.inputs[0].shape is None or len(node.inputs[0].shape) != 4:
            continue
        head = joined.inputs[0].producer()
        if head is None or head.op_type != "Shape" or head.inputs[0] is not node.inputs[0]:
            continue
        if head.attributes.get_int("start", 0) != 0 or head.attributes.get_int("end", 4) != 2:
            continue
        sizes = ir.node("Concat", joined.inputs[1:], {"axis": 0})
        model.graph.insert_before(node, sizes)
        node.replace_input_with(3, sizes.outputs[0])
        node.attributes["axes"] = ir.AttrInt64s("axes", [2, 3])
        count += 1
    return count
