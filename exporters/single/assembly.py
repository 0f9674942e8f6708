"""A graph in the making: nodes are appended, whole models inlined, what must hold is checked where it is run."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..nodes import Nodes, ints, value


class Assembly(Nodes):
    def __init__(self, name: str) -> None:
        super().__init__(ir.Graph([], [], nodes=[], name=name))

    def input(
        self, name: str, dtype: ir.DataType, shape: Sequence[int | str], default: np.ndarray | None = None
    ) -> ir.Value:
        """With a default, it need not be given: ONNX calls that an overridable initializer."""
        new = value(name, dtype, shape)
        self.graph.inputs.append(new)
        if default is not None:
            new.const_value = ir.tensor(default, name=name)
            self.graph.initializers[name] = new
        return new

    def output(self, name: str, of: ir.Value, dtype: ir.DataType, shape: Sequence[int | str]) -> None:
        result = self.do("Identity", of)
        result.name, result.type, result.shape = name, ir.TensorType(dtype), ir.Shape(shape)
        self.graph.outputs.append(result)

    def check(self, holds: ir.Value, otherwise: str, then: ir.Value) -> ir.Value:
        """`then`, if the scalar `holds`; else ONNX Runtime's error names a node that is called `otherwise`."""
        index = self.do("Where", holds, np.int64(0), np.int64(1))
        return self.do("Gather", self.do("Unsqueeze", then, ints(0)), index, axis=0, name=otherwise)

    def for_each(self, given: ir.Value, batch: ir.Value, row: Sequence[int], otherwise: str) -> ir.Value:
        """[1 or N,*row] -> [N,*row]: one for all pictures, or one each. batch: i64 [1], N."""
        shape = self.do("Concat", batch, ints(*row), axis=0)
        rows = self.do("Expand", given, shape, name=otherwise)
        return self.do("Reshape", rows, shape, name=otherwise)  # Expand alone takes several for one picture

    def inline(self, model: ir.Model, *inputs: ir.Value) -> ir.Value:
        """The one output of a model, whose nodes and weights become this graph's."""
        (result,) = self.inline_all(model, *inputs)
        return result

    def inline_all(self, model: ir.Model, *inputs: ir.Value) -> list[ir.Value]:
        """All its outputs, likewise."""
        nodes, weights = list(model.graph), list(model.graph.initializers.values())
        for old, new in zip(list(model.graph.inputs), inputs, strict=True):
            old.replace_all_uses_with(new)
        results = list(model.graph.outputs)
        for part in (model.graph.inputs, model.graph.outputs, model.graph.initializers):
            part.clear()
        model.graph.remove(nodes)
        for weight in weights:
            assert weight.name is not None
            self.graph.initializers[weight.name] = weight
        self.graph.extend(nodes)
        return results
