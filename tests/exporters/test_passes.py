"""Every rewrite of a traced graph: a small model gives the same numbers before and after, the count is what was
changed, and a model that only looks alike is left alone.
"""

import numpy as np
import onnx_ir as ir
import pytest

from exporters.passes import CLEAN, clean
from exporters.passes.constants import LARGEST, fold_constants
from exporters.passes.identities import remove_identities
from exporters.passes.reshapes import constant_reshapes, plan
from exporters.passes.resizes import resize_spatial
from exporters.passes.splits import merge_splits
from tests.exporters.graphs import ops, parse, randn, rewritten, run

# Resize.

RESIZE = """
agraph (float[N,3,H,W] x, float[N,3,H,W] other) => (float[A,B,C,D] y) {{
    head = Shape<{head}>({of})
    tail = Constant<value_ints = [7, 10]>()
    sizes = Concat<axis = 0>(head, tail)
    y = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(x, , , sizes)
}}"""
PICTURES = {"x": randn(2, 3, 4, 5), "other": randn(2, 3, 1, 1)}


def test_resize_spatial():
    model = parse(RESIZE.format(head="start = 0, end = 2", of="x"))
    assert rewritten(model, lambda m: min(resize_spatial(m), 1), 1, PICTURES)["Shape"] == 0
    (resize,) = [node for node in model.graph if node.op_type == "Resize"]
    assert list(resize.attributes["axes"].as_ints()) == [2, 3]


def test_resize_by_another_tensors_sizes():
    rewritten(parse(RESIZE.format(head="start = 0, end = 2", of="other")), resize_spatial, 0, PICTURES)


@pytest.mark.parametrize(
    "text",
    [
        """agraph (float[N,3,L] x) => (float[A,B,C] y) {
            head = Shape<start = 0, end = 2>(x)
            tail = Constant<value_ints = [7]>()
            sizes = Concat<axis = 0>(head, tail)
            y = Resize<mode = "nearest">(x, , , sizes)
        }""",
        """agraph (float[N,3,L,4] x) => (float[A,B,C,D] y) {
            head = Shape<start = 0, end = 1>(x)
            tail = Constant<value_ints = [3, 7, 4]>()
            sizes = Concat<axis = 0>(head, tail)
            y = Resize<mode = "nearest">(x, , , sizes)
        }""",
        """agraph (float[N,3,L] x) => (float[A,B,C] y) {
            scales = Constant<value_floats = [1.0, 1.0, 2.0]>()
            y = Resize<mode = "nearest">(x, , scales)
        }""",
    ],
    ids=["three axes", "one axis", "scales"],
)
def test_resize_of_another_form(text):
    rewritten(parse(text), resize_spatial, 0, {"x": randn(*((2, 3, 4, 4) if "L,4" in text else (2, 3, 4)))})


# Constants.


def test_fold_constants():
    """Arithmetic on constants and the size of a static axis fold to one Constant."""
    model = parse("""agraph (float[N,6] x) => (float[A,B] y) {
        width = Shape<start = 1, end = 2>(x)
        two = Constant<value_ints = [2]>()
        half = Div(width, two)
        minus = Constant<value_ints = [-1]>()
        shape = Concat<axis = 0>(minus, half)
        y = Reshape(x, shape)
    }""")
    assert rewritten(model, fold_constants, 3, {"x": randn(4, 6)}) == {"Constant": 1, "Reshape": 1}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a = Shape(x) b = Cast<to = 7>(a)", {"Shape": 1, "Cast": 1}),
        ("a = Shape<start = -2>(x) b = Cast<to = 7>(a)", {"Shape": 1, "Cast": 1}),
        ("a = Add(w, w) b = Cast<to = 7>(a)", {"Add": 1, "Cast": 1}),
    ],
    ids=["a dynamic axis", "counted from the end", "a checkpoint's tensor"],
)
def test_what_is_not_folded(expression, expected):
    text = f"agraph (float[N,6] x) => (int64[K] b) <float[2] w = {{1.0, 2.0}}> {{ {expression} }}"
    assert rewritten(parse(text), fold_constants, 0, {"x": randn(4, 6)}) == expected


def test_large_constants_are_not_folded():
    for size, count in ((LARGEST, 2), (LARGEST + 1, 1)):
        model = parse(f"""agraph (float x) => (float[K] y) {{
            n = Constant<value_ints = [{size - 1}]>()
            one = Constant<value_ints = [1]>()
            shape = Add(n, one)
            zeros = ConstantOfShape(shape)
            y = Add(x, zeros)
        }}""")
        rewritten(model, fold_constants, count, {"x": np.ones((), np.float32)})


def test_an_output_is_not_folded():
    model = parse("""agraph (float x) => (int64[1] y) {
        one = Constant<value_ints = [1]>()
        y = Add(one, one)
    }""")
    rewritten(model, fold_constants, 0, {"x": np.ones((), np.float32)})


# Splits.

SPLIT = """
agraph (float[N,7] x) => (float[N,A] a, float[N,B] b) {{
    size = Constant<{size}>()
    i = Constant<value_int = {first}>()
    j = Constant<value_int = {second}>()
    parts = SplitToSequence<axis = {axis}>(x, size)
    a0 = SequenceAt(parts, i)
    b0 = SequenceAt(parts, j)
    a = Neg(a0)
    b = Neg(b0)
}}"""


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (0, 0), (0, -1)])
@pytest.mark.parametrize("size", ["value_ints = [4, 3]", "value_int = 4", "value_ints = [2, 2, 3]", "value_int = 2"])
def test_merge_splits(size, first, second, axis):
    model = parse(SPLIT.format(size=size, first=first, second=second, axis=axis))
    found = rewritten(without_shapes(model), merge_splits, 1, {"x": randn(3, 7)})
    assert found["Split"] == 1
    assert not [op for op in found if "Sequence" in op]


def without_shapes(model):
    """The outputs' shapes unsaid: a rewrite may know them better than shape inference did."""
    for value in model.graph.outputs:
        value.shape = None
    return model


@pytest.mark.parametrize(
    "text",
    [
        """agraph (float[N,6] x) => (float[A,B] y, int64 n) {
            size = Constant<value_int = 3>()
            i = Constant<value_int = 0>()
            parts = SplitToSequence<axis = 1>(x, size)
            z = SequenceAt(parts, i)
            y = Neg(z)
            l = SequenceLength(parts)
            n = Neg(l)
        }""",
        """agraph (float[N,6] x) => (float[A,B] y) {
            size = Constant<value_int = 1>()
            i = Constant<value_int = 0>()
            parts = SplitToSequence<axis = 0>(x, size)
            z = SequenceAt(parts, i)
            y = Neg(z)
        }""",
        """agraph (float[N,6] x, int64 i) => (float[A,B] y) {
            size = Constant<value_int = 3>()
            parts = SplitToSequence<axis = 1>(x, size)
            z = SequenceAt(parts, i)
            y = Neg(z)
        }""",
        """agraph (float[N,6] x) => (float[A] y) {
            i = Constant<value_int = 0>()
            parts = SplitToSequence<axis = 1, keepdims = 0>(x)
            z = SequenceAt(parts, i)
            y = Neg(z)
        }""",
        """agraph (float[N,6] x) => (float[A,B] y) {
            size = Constant<value_int = 3>()
            i = Constant<value_int = 0>()
            parts = SplitToSequence<axis = 1>(x, size)
            y = SequenceAt(parts, i)
        }""",
    ],
    ids=["a length", "a dynamic axis", "a place not known", "no sizes", "an output"],
)
def test_splits_that_stay(text):
    model = parse(text)
    feeds = {"x": randn(3, 6), "i": np.array(1)}
    rewritten(model, merge_splits, 0, {v.name: feeds[v.name] for v in model.graph.inputs})


# Identities.


@pytest.mark.parametrize(
    "node",
    [
        "a = Identity(x)",
        "a = Cast<to = 1>(x)",
        "s = Shape(x) a = Reshape(x, s)",
        "s = Shape(x) a = Expand(x, s)",
        "b = Constant<value_ints = [0]>() e = Constant<value_ints = [9223372036854775807]>() a = Slice(x, b, e)",
        "b = Constant<value_ints = [0]>() e = Constant<value_ints = [9223372036854775807]>()"
        "c = Constant<value_ints = [1]>() d = Constant<value_ints = [1]>() a = Slice(x, b, e, c, d)",
    ],
)
def test_remove_identities(node):
    model = parse(f"agraph (float[N,4] x) => (float[A,B] y) {{ {node} y = Neg(a) }}")
    assert rewritten(model, remove_identities, 1, {"x": randn(3, 4)}) == {"Neg": 1}


@pytest.mark.parametrize(
    "node",
    [
        "a = Cast<to = 10>(x)",
        "s = Constant<value_ints = [4, -1]>() a = Reshape(x, s)",
        "n = Constant<value_ints = [5, 1, 1]>() a = Expand(x, n)",
        "b = Constant<value_ints = [1]>() e = Constant<value_ints = [9223372036854775807]>() a = Slice(x, b, e)",
        "b = Constant<value_ints = [0]>() e = Constant<value_ints = [2]>() a = Slice(x, b, e)",
        "b = Constant<value_ints = [0]>() e = Constant<value_ints = [9223372036854775807]>()"
        "c = Constant<value_ints = [1]>() d = Constant<value_ints = [2]>() a = Slice(x, b, e, c, d)",
    ],
)
def test_what_is_no_identity(node):
    rewritten(parse(f"agraph (float[N,4] x) => (Y) {{ {node} y = Neg(a) }}".replace("(Y)", output_of(node))),
              remove_identities, 0, {"x": randn(3, 4)})  # fmt: skip


def output_of(node):
    if "to = 10" in node:
        return "(float16[A,B] y)"
    return "(float[A,B,C] y)" if "Expand" in node else "(float[A,B] y)"


def test_two_unknown_shapes_are_not_equal():
    model = parse("""agraph (float[N,4] x, int64[2] s) => (float[A,B] y) {
        a = Reshape(x, s)
        t = Constant<value_ints = [4, -1]>()
        b = Reshape(a, t)
        y = Neg(b)
    }""")
    for node in model.graph:
        if node.op_type == "Reshape":
            node.outputs[0].shape = ir.Shape([None, None])
    feeds = {"x": randn(3, 4), "s": np.array([2, 6])}
    rewritten(model, remove_identities, 0, feeds)


def test_an_output_that_is_its_input_stays():
    rewritten(parse("agraph (float[N] x) => (float[N] y) { y = Identity(x) }"), remove_identities, 0, {"x": randn(3)})


# Reshapes.


@pytest.mark.parametrize(
    ("source", "target", "shape", "sizes"),
    [
        (["N", 6], ["N", 2, 3], (4, 6), [0, 2, 3]),
        (["N", 4, "H"], ["N", "K"], (2, 4, 3), [0, -1]),
        (["N", "L", 6], ["N", "L", 2, 3], (2, 5, 6), [0, 0, 2, 3]),
        (["N", 6], ["K", 3], (4, 6), [-1, 3]),
        (["N", "H", "W"], ["N", "HW"], (2, 3, 4), [0, -1]),
        (["N", "H", "W"], ["W", "N", "H"], (2, 3, 4), None),
        (["N", "L", 6], ["N", "A", "B"], (2, 4, 6), None),
        (["N", 6], [None, None], (4, 6), None),
        ([None, 6], [None, 6], (4, 6), [-1, 6]),
    ],
)
def test_constant_reshapes(source, target, shape, sizes):
    """A shape computed at run time becomes a constant where the sizes' names allow it."""
    assert plan(ir.Shape(source), ir.Shape(target)) == sizes
    x = randn(*shape)
    want = np.array({(2, 3, 4): [4, 2, 3], (2, 4, 6): [2, 8, 3]}.get(shape, [0] * len(target)))
    if sizes is not None:
        want = np.array(x.reshape([x.shape[i] if s == 0 else s for i, s in enumerate(sizes)]).shape)
    elif None in target:
        want = np.array([3, 8])
    model = parse(f"agraph (float[{','.join('abcd'[: len(shape)])}] x, int64[{len(target)}] s) => (float[X] y) "
                  "{ r = Reshape(x, s) n = Neg(r) m = Constant<value_ints = [-1]>() y = Reshape(n, m) }")  # fmt: skip
    model.graph.inputs[0].shape = ir.Shape(source)
    model.graph[0].outputs[0].shape = ir.Shape(target)
    rewritten(model, constant_reshapes, int(sizes is not None), {"x": x, "s": want})


# All together.


def test_clean_counts():
    """What a traced attention and split look like, as one model: all rewrites apply and say so."""
    model = parse("""agraph (float[N,L,12] x) => (float[N,L,6] y) {
        size = Constant<value_int = 6>()
        i = Constant<value_int = 0>()
        j = Constant<value_int = 1>()
        parts = SplitToSequence<axis = 2>(x, size)
        p = SequenceAt(parts, i)
        k = SequenceAt(parts, j)
        q = Identity(p)
        split = Constant<value_ints = [0, 0, 3, 2]>()
        q4 = Reshape(q, split)
        k4 = Reshape(k, split)
        qt = Transpose<perm = [0, 2, 1, 3]>(q4)
        kt = Transpose<perm = [0, 2, 1, 3]>(k4)
        a = Attention(qt, kt, kt)
        at = Transpose<perm = [0, 2, 1, 3]>(a)
        three = Constant<value_ints = [3]>()
        two = Constant<value_ints = [2]>()
        six = Mul(three, two)
        head = Shape<start = 0, end = 2>(x)
        join = Concat<axis = 0>(head, six)
        r = Reshape(at, join)
        y = Cast<to = 1>(r)
    }""")
    x = randn(2, 5, 12)
    (before,) = run(model, {"x": x})
    counts = clean(model)
    assert list(counts) == [rewrite.__name__ for rewrite in CLEAN]
    assert counts["merge_splits"] == 1
    assert counts["remove_identities"] == 1
    assert counts["attention_3d"] == 1
    found = ops(model)
    assert found["Attention"] == found["Split"] == 1
    assert not {"SplitToSequence", "Transpose", "Identity", "Shape", "Mul"} & set(found)
    np.testing.assert_allclose(run(model, {"x": x})[0], before, rtol=1e-5, atol=1e-5)
