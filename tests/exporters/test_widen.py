"""Nodes that compute in float32 inside an fp16 graph: the casts around them, and the numbers."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from exporters.passes.widen import infer_types, widen
from tests.exporters.graphs import ops, parse

HALVES = """agraph (float[N,4] x) => (float[N,4] y, int64[2] size) {
    a = Cast<to = 10>(x)
    large = Mul(a, a)
    double = Add(large, a)
    size = Shape(double)
    root = Sqrt(double)
    minus = Neg(root)
    last = Abs(minus)
    y = Cast<to = 1>(last)
}"""
BIG = {"x": np.float32([[300, 1000, 2, 0], [2048, 0.5, 1, 30000]])}  # up to 9e8


def widened(*names):
    model = parse(HALVES)
    infer_types(model)
    return model, widen(model, [node for node in model.graph if node.outputs[0].name in names])


def strictly(model):
    """Every value between two nodes in its own dtype, which ONNX Runtime does not promise."""
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(ir.serde.serialize_model(model)).run(None, BIG)[0]


@pytest.mark.parametrize(
    ("names", "casts"),
    [
        ((), 2),
        (("large", "double", "root"), 4),  # one on the way in, however many take it, and one on the way out
        (("large", "minus"), 6),
        (("minus", "last"), 3),  # the last one, from float32 to float32, makes an output of the graph and stays
        (("large", "double", "root", "minus", "last"), 3),
        (("a", "large", "double", "root", "minus", "last"), 1),
    ],
)
def test_widen(names, casts):
    model, count = widened(*names)
    onnx.checker.check_model(ir.serde.serialize_model(model))
    assert count == len(names)
    assert ops(model)["Cast"] == casts
    assert all((value.dtype == ir.DataType.FLOAT) == (value.name in names) for node in model.graph
               for value in node.outputs if value.name in ("large", "double", "root", "minus", "last"))  # fmt: skip
    fits = {"large", "double", "root"} <= set(names)
    x = BIG["x"].astype(np.float64)
    expected = np.sqrt(x * x + x)
    got = strictly(model)
    assert np.isfinite(got).all() == fits
    if fits:
        np.testing.assert_allclose(got, expected, rtol=2e-3)


def test_widening_a_clone_leaves_its_original_alone():
    model = parse(HALVES)
    infer_types(model)
    before = ir.serde.serialize_model(model).SerializeToString()
    copy = model.clone()
    widen(copy, list(copy.graph))
    assert ir.serde.serialize_model(model).SerializeToString() == before
