"""Every rewrite and every lowering: a small model gives the same numbers before and after, the count is what was
changed, and a model that only looks alike is left alone.
"""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporters.attention import SLICES, to_multi_head, to_query_chunks
from exporters.lowering import CHOICES, LOWERINGS, lower
from exporters.norms import to_instance_norm
from exporters.passes import CLEAN, clean
from exporters.passes.attention_3d import attention_3d
from exporters.passes.constants import LARGEST, fold_constants
from exporters.passes.identities import remove_identities
from exporters.passes.reshapes import constant_reshapes, plan
from exporters.passes.resizes import resize_spatial
from exporters.passes.splits import merge_splits
from exporters.passes.widen import infer_types, widen

RNG = np.random.default_rng(0)


def parse(text):
    """A model in ONNX's text form, its inner shapes inferred as far as they can be."""
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1]>\n' + text)
    onnx.checker.check_model(proto)
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))


def run(model, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_reuse = False  # it takes the parts of an uneven SplitToSequence to be equal, and fails
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = ir.serde.serialize_model(model).SerializeToString()
    return ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def ops(model):
    return Counter(node.op_type for node in model.graph)


def rewritten(model, rewrite, count, *feeds, tolerance=0.0):
    """Apply a rewrite that must change ``count`` places and no number; the operators that are left."""
    before = [run(model, feed) for feed in feeds]
    outputs = [(v.name, v.shape, v.dtype) for v in model.graph.outputs]
    assert rewrite(model) == count
    RemoveUnusedNodesPass()(model)
    assert [(v.name, v.shape, v.dtype) for v in model.graph.outputs] == outputs
    for feed, expected in zip(feeds, before, strict=True):
        for a, b in zip(run(model, feed), expected, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, strict=True)
    assert rewrite(model) == 0  # nothing is left to do
    return ops(model)


def randn(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


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


# Attention.


def heads_apart(attention, mask="", value_width=6):
    """Attention as it is traced: heads split by Reshape and Transpose, joined the same way."""
    return parse(f"""agraph (float[N,L,6] q, float[N,S,6] k, float[N,S,{value_width}] v{mask}) => (float[A,B,C] y)
    <float[N,3,L,{value_width // 3}] a> {{
        split = Constant<value_ints = [0, 0, 3, 2]>()
        split_values = Constant<value_ints = [0, 0, 3, {value_width // 3}]>()
        join = Constant<value_ints = [0, 0, {value_width}]>()
        q4 = Reshape(q, split)
        k4 = Reshape(k, split)
        v4 = Reshape(v, split_values)
        qt = Transpose<perm = [0, 2, 1, 3]>(q4)
        kt = Transpose<perm = [0, 2, 1, 3]>(k4)
        vt = Transpose<perm = [0, 2, 1, 3]>(v4)
        {attention}
        at = Transpose<perm = [0, 2, 1, 3]>(a)
        y = Reshape(at, join)
    }}""")


def feeds(length=5, keys=7, value_width=6):
    return {"q": randn(2, length, 6), "k": randn(2, keys, 6), "v": randn(2, keys, value_width)}


@pytest.mark.parametrize(
    ("attention", "mask"),
    [
        ("a = Attention(qt, kt, vt)", ""),
        ("a = Attention<scale = 0.3>(qt, kt, vt)", ""),
        ("a = Attention<is_causal = 1>(qt, kt, vt)", ""),
        ("a = Attention<softcap = 0.5>(qt, kt, vt)", ""),
        ("a = Attention(qt, kt, vt, m)", ", float[L,S] m"),
        ("a = Attention(qt, kt, vt, m)", ", bool[1,1,L,S] m"),
    ],
    ids=["plain", "scale", "causal", "softcap", "mask", "4-D mask"],
)
def test_attention_3d(attention, mask):
    feed = feeds() | {"m": randn(5, 7)} if "float" in mask else feeds()
    if "bool" in mask:
        feed["m"] = np.tri(5, 7, 2, dtype=bool)[None, None]
    found = rewritten(heads_apart(attention, mask), attention_3d, 1, feed, tolerance=1e-5)
    assert found == {"Attention": 1}


def test_attention_3d_with_wider_values():
    model = heads_apart("a = Attention(qt, kt, vt)", value_width=9)
    assert rewritten(model, attention_3d, 1, feeds(value_width=9), tolerance=1e-5) == {"Attention": 1}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kt = Transpose<perm = [0, 2, 1, 3]>(k4)", "kx = Transpose<perm = [0, 2, 1, 3]>(k4) kt = Neg(kx)"),
        ("a = Attention(qt, kt, vt)", "ax = Attention(qt, kt, vt) a = Neg(ax)"),
        ("y = Reshape(at, join)", "yx = Reshape(at, join) b = ReduceMax<keepdims = 0>(a) y = Add(yx, b)"),
        ("at = Transpose<perm = [0, 2, 1, 3]>(a)", "at = Transpose<perm = [2, 0, 1, 3]>(a)"),
        ("join = Constant<value_ints = [0, 0, 6]>", "join = Constant<value_ints = [-1, 3, 2]>"),
    ],
    ids=["keys changed", "result changed", "result used twice", "not transposed back", "joined otherwise"],
)
def test_attention_of_another_form(old, new, monkeypatch):
    read = onnx.parser.parse_model

    def changed(text):
        assert text.count(old) == 1
        return read(text.replace(old, new))

    monkeypatch.setattr(onnx.parser, "parse_model", changed)
    rewritten(heads_apart("a = Attention(qt, kt, vt)"), attention_3d, 0, feeds())


def whole(attributes="q_num_heads = 3, kv_num_heads = 3", mask="", same=True, width=6):
    """Attention on [B,L,D]."""
    keys = "L" if same else "S"
    return parse(f"""agraph (float[N,L,6] q, float[N,{keys},{width}] k, float[N,{keys},{width}] v{mask})
    => (float[A,B,C] y) {{
        a = Attention<{attributes}>(q, k, v{", m" if mask else ""})
        y = Neg(a)
    }}""")


FORMS = {"MultiHeadAttention": to_multi_head, "Scan": to_query_chunks}


@pytest.mark.parametrize("length", [1, SLICES - 1, SLICES, SLICES + 1, 70])
@pytest.mark.parametrize("scale", ["", ", scale = 0.7"])
@pytest.mark.parametrize("op", FORMS)
def test_lowered_self_attention(op, scale, length):
    model = whole("q_num_heads = 3, kv_num_heads = 3" + scale)
    found = rewritten(model, FORMS[op], 1, feeds(length, length), tolerance=1e-5)
    assert found[op] == 1
    assert found["Attention"] == 0


@pytest.mark.parametrize(("op", "count"), [("MultiHeadAttention", 1), ("Scan", 0)])
def test_lowered_cross_attention(op, count):
    """Query chunks are for self-attention alone: with a prompt's 77 keys the score matrix is small."""
    found = rewritten(whole(same=False), FORMS[op], count, feeds(40, 7), tolerance=1e-5)
    assert found[op] == count


@pytest.mark.parametrize(
    ("attributes", "mask", "width"),
    [
        ("q_num_heads = 3, kv_num_heads = 3, is_causal = 1", "", 6),
        ("q_num_heads = 3, kv_num_heads = 3, softcap = 0.5", "", 6),
        ("q_num_heads = 3, kv_num_heads = 3", ", float[L,L] m", 6),
        ("q_num_heads = 3, kv_num_heads = 1", "", 2),
    ],
    ids=["causal", "softcap", "mask", "grouped"],
)
@pytest.mark.parametrize("op", FORMS)
def test_attention_that_is_not_lowered(op, attributes, mask, width):
    feed = {"q": randn(2, 5, 6), "k": randn(2, 5, width), "v": randn(2, 5, width)}
    feed |= {"m": randn(5, 5)} if mask else {}
    assert rewritten(whole(attributes, mask, width=width), FORMS[op], 0, feed)["Attention"] == 1


@pytest.mark.parametrize("op", FORMS)
def test_attention_on_split_heads_is_not_lowered(op):
    rewritten(heads_apart("a = Attention(qt, kt, vt)"), FORMS[op], 0, feeds())


# Norms.


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("epsilon", ["", ", epsilon = 0.01"])
@pytest.mark.parametrize("sizes", ["N,6,H,W", "N,6,4,5", "2,6,4,5", "N,6,L"])
def test_group_norm(sizes, epsilon, groups):
    model = parse(f"""agraph (float[{sizes}] x, float[6] scale, float[6] bias) => (float[{sizes}] y)
    <float[{sizes}] n> {{
        n = GroupNormalization<num_groups = {groups}{epsilon}>(x, scale, bias)
        y = Neg(n)
    }}""")
    x = 3 * randn(*((2, 6, 20) if sizes.endswith("L") else (2, 6, 4, 5))) + 1
    feed = {"x": x, "scale": randn(6), "bias": randn(6)}
    found = rewritten(model, to_instance_norm, 1, feed, tolerance=1e-5)
    assert found["InstanceNormalization"] == 1
    assert found["GroupNormalization"] == 0
    assert (found["Shape"] == 0) == ("H" not in sizes and "L" not in sizes)


@pytest.mark.parametrize("rewrite", [to_multi_head, to_query_chunks, to_instance_norm])
def test_an_output_keeps_its_name(rewrite):
    model = parse("""agraph (float[N,6,6] q, float[6] w) => (float[N,6,6] attended, float[N,6,6] normal) {
        attended = Attention<q_num_heads = 3, kv_num_heads = 3>(q, q, q)
        normal = GroupNormalization<num_groups = 2>(q, w, w)
    }""")
    rewritten(model, rewrite, 1, {"q": randn(2, 6, 6), "w": randn(6)}, tolerance=1e-5)


def test_other_norms_are_left_alone():
    model = parse("""agraph (float[N,6,L] x, float[6] scale, float[6] bias) => (float[N,6,L] y) {
        n = InstanceNormalization(x, scale, bias)
        y = Neg(n)
    }""")
    rewritten(model, to_instance_norm, 0, {"x": randn(2, 6, 5), "scale": randn(6), "bias": randn(6)})


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


@pytest.mark.parametrize("form", LOWERINGS)
def test_lower(form):
    """Every form that can be chosen is written down, and says how much it lowered: nothing, if there is nothing."""
    assert {f for forms in CHOICES.values() for f in forms} == set(LOWERINGS)
    model = whole()
    count = lower(model, form)
    assert count == (0 if form == "portable" else 1)
    assert lower(parse("agraph (float[N] x) => (float[N] y) { y = Neg(x) }"), form) == 0


# Widening.

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
