"""What a graph says of the shapes inside it."""

import onnx_ir as ir


def drop_inner_shapes(model: ir.Model) -> None:
    """Drop every shape but those of the boundary: they speak of torch's symbols."""
    for node in model.graph:
        node.metadata_props.clear()
        for output in node.outputs:
            output.metadata_props.clear()
            if not output.is_graph_output():
                output.shape, output.type = None, None
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
