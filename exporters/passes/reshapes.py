"""Reshape by sizes computed at run time -> by a constant, where at most one size is neither static nor an input's own.

In a constant shape, 0 copies the input's size at that place and -1 stands for the one that is left.
"""

import numpy as np
import onnx_ir as ir

from .constants import constant, make_constant


def plan(source: ir.Shape, target: ir.Shape) -> list[int] | None:
    sizes: list[int] = []
    for i, size in enumerate(target):
        if isinstance(size, int):
            sizes.append(size)
        elif i < len(source) and source[i] == size and size.value is not None:
            sizes.append(0)
        elif -1 in sizes:
            return None
        else:
            sizes.append(-1)
    return sizes


def constant_reshapes(model: ir.Model) -> int:
    count = 0
    for node in list(model.graph):
        if node.op_type != "Reshape" or constant(node.inputs[1]) is not None:
            continue
        source, target = node.inputs[0].shape, node.outputs[0].shape  # type: ignore[union-attr]
        sizes = plan(source, target) if source is not None and target is not None else None
        if sizes is None or any(size == 0 for size in target or () if isinstance(size, int)):
            continue
        node.replace_input_with(1, make_constant(node, np.array(sizes, np.int64)))
        node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
        count += 1
    return count
