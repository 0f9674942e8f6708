"""The sums of a table's row as nodes: what exporters/loop.py and exporters/step have in common."""

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from .nodes import ints

Do = Callable[..., Any]  # Nodes.do


def prediction(do: Do, x: ir.Value, m: ir.Value, p: ir.Value, q: ir.Value, clip: ir.Value) -> ir.Value:
    """y = p x + q m, clipped. By Min and Max: on CUDA, Clip would fetch its limits from the host."""
    y = do("Add", do("Mul", x, p), do("Mul", m, q))
    return do("Max", do("Min", y, clip), do("Neg", clip))


def weighted(do: Do, W: ir.Value, slots: ir.Value, y: ir.Value, m: ir.Value, z: ir.Value) -> ir.Value:
    """W @ [slots; y; m; z]: slots [S,B,...], the others [B,...] -> [S,B*...]"""
    terms = do("Concat", slots, *(do("Unsqueeze", each, ints(0)) for each in (y, m, z)), axis=0)
    return do("MatMul", W, do("Reshape", terms, ints(0, -1)))
