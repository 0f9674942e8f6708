"""Writing nodes one after another into a graph, as one would write NumPy."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

FLOAT, DOUBLE, BOOL = ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.BOOL
INT32, INT64, UINT64 = ir.DataType.INT32, ir.DataType.INT64, ir.DataType.UINT64
UINT8, STRING = ir.DataType.UINT8, ir.DataType.STRING


class Nodes:
    """Appends to a graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph

    def do(self, op: str, *inputs, outputs: int = 1, name: str | None = None, domain: str = "", **attributes):
        """Append a node; arrays among its inputs become constants."""
        values = [i if isinstance(i, ir.Value) else self.constant(np.asarray(i)) for i in inputs]
        node = ir.node(op, values, attributes, num_outputs=outputs, name=name, domain=domain)
        self.graph.append(node)
        return node.outputs[0] if outputs == 1 else node.outputs

    def constant(self, array: np.ndarray) -> ir.Value:
        node = ir.node("Constant", [], {"value": ir.tensor(array)})
        self.graph.append(node)
        return node.outputs[0]


def value(name: str, dtype: ir.DataType | None, shape: Sequence[int | str | ir.SymbolicDim]) -> ir.Value:
    assert dtype is not None
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)
