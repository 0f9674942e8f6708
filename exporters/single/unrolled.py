"""A loop written out: for hosts that have no Scan, and for capture as a CUDA graph."""

import numpy as np
import onnx_ir as ir

from ..nodes import Nodes


def unroll(looped: ir.Model, count: int) -> ir.Model:
    """What exporters/loop.py gives, with its body `count` times in the place of the Scan: it takes so many rows. The
    copies share their weights."""
    graph = looped.graph
    (scan,) = graph
    body = scan.attributes["body"].as_graph()
    columns = list(scan.inputs[1:])
    slots = scan.inputs[0]
    graph.outputs.clear()
    graph.remove(scan)
    write = Nodes(graph)
    for row in range(count):
        copy = body.clone(allow_outer_scope_values=True)
        inputs, outputs = list(copy.inputs), list(copy.outputs)
        nodes, weights = list(copy), dict(copy.initializers)
        for part in (copy.inputs, copy.outputs, copy.initializers):
            part.clear()
        copy.remove(nodes)
        for name, weight in weights.items():
            if name in graph.initializers:
                weight.replace_all_uses_with(graph.initializers[name])
            else:
                graph.initializers[name] = weight
        here = [slots, *(write.do("Gather", column, np.int64(row)) for column in columns)]
        for old, new in zip(inputs, here, strict=True):
            old.replace_all_uses_with(new)
        for node in nodes:
            node.name = f"{node.name}/{row}"
        graph.extend(nodes)
        (slots,) = outputs
    assert slots is not None
    graph.outputs.append(slots)
    return looped
