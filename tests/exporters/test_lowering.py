"""Attention and norms in the forms that providers run, as test_passes.py tests rewrites: the same numbers, counted, and
look-alikes left alone.
"""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporters.attention import SLICES, to_multi_head, to_query_chunks
from exporters.lowering import CHOICES, LOWERINGS, lower
from exporters.norms import to_channels_last_norm, to_instance_norm
from exporters.passes.attention_3d import attention_3d
from tests.exporters.graphs import ops, parse, randn, rewritten, run

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


class GroupNorm(OpRun):
    """CUDA's operator, which the CPU has not, as ONNX Runtime's ContribOperators.md describes it."""

    op_domain = "com.microsoft"

    def _run(self, x, gamma, beta, activation=None, channels_last=None, epsilon=None, groups=None):
        assert channels_last == 1
        assert gamma.dtype == beta.dtype == np.float32
        n, h, w, c = x.shape
        parts = x.astype(np.float32).reshape(n, h * w, groups, c // groups)
        normal = (parts - parts.mean((1, 3), keepdims=True)) / np.sqrt(parts.var((1, 3), keepdims=True) + epsilon)
        y = normal.reshape(x.shape) * gamma + beta
        return ((y / (1 + np.exp(-y)) if activation else y).astype(x.dtype),)


@pytest.mark.parametrize(
    ("tail", "silu"),
    [
        ("s = Sigmoid(n) m = Mul(n, s) y = Neg(m)", 1),
        ("s = Sigmoid(n) y = Mul(s, n)", 1),
        ("y = Neg(n)", 0),
        ("s = Sigmoid(n) m = Mul(n, s) y = Add(m, n)", 0),
        ("s = Sigmoid(n) m = Mul(n, s) y = Add(m, s)", 0),
        ("s = Sigmoid(n) y = Mul(s, x)", 0),
    ],
    ids=["silu", "silu, other side", "none", "norm read again", "sigmoid read again", "another product"],
)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_group_norm_for_cuda(dtype, tail, silu):
    model = parse(f"""agraph ({dtype}[N,8,H,W] x, {dtype}[8] scale, {dtype}[8] bias) => ({dtype}[N,8,H,W] y)
    <{dtype}[N,8,H,W] n> {{
        n = GroupNormalization<num_groups = 2, epsilon = 0.01>(x, scale, bias)
        {tail}
    }}""")
    numbers = {"x": 3 * randn(2, 8, 4, 5) + 1, "scale": randn(8), "bias": randn(8)}
    feed = {name: array.astype("float16" if dtype == "float16" else "float32") for name, array in numbers.items()}
    (expected,) = run(model, feed)
    assert to_channels_last_norm(model) == 1
    RemoveUnusedNodesPass()(model)
    (norm,) = (node for node in model.graph if node.op_type == "GroupNorm")
    assert norm.attributes["activation"].as_int() == silu
    assert ops(model)["Sigmoid"] == ("Sigmoid" in tail) - silu
    (got,) = ReferenceEvaluator(ir.serde.serialize_model(model), new_ops=[GroupNorm]).run(None, feed)
    tolerance = 1e-2 if dtype == "float16" else 1e-5
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, strict=True)
    assert to_channels_last_norm(model) == 0


@pytest.mark.parametrize(
    ("width", "groups", "count"), [(6, 2, 0), (224, 32, 0), (1028, 4, 0), (1024, 4, 1), (64, 32, 1)]
)
def test_groups_that_the_kernel_for_cuda_does_not_take(width, groups, count):
    """An odd number of channels, or more than 256."""
    model = parse(f"""agraph (float[N,{width},H,W] x, float[{width}] s, float[{width}] b) => (float[N,{width},H,W] y)
    <float[N,{width},H,W] n> {{
        n = GroupNormalization<num_groups = {groups}>(x, s, b)
        y = Neg(n)
    }}""")
    assert to_channels_last_norm(model) == count
    assert ops(model)["GroupNormalization"] == 1 - count


def test_group_norm_of_tokens_is_not_for_cuda():
    model = parse("""agraph (float[N,6,L] x, float[6] scale, float[6] bias) => (float[N,6,L] y)
    <float[N,6,L] n> {
        n = GroupNormalization<num_groups = 2>(x, scale, bias)
        y = Neg(n)
    }""")
    rewritten(model, to_channels_last_norm, 0, {"x": randn(2, 6, 5), "scale": randn(6), "bias": randn(6)})


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


@pytest.mark.parametrize("form", LOWERINGS)
def test_lower(form):
    """Every form that can be chosen is written down, and says how much it lowered: nothing, if there is nothing."""
    assert {f for forms in CHOICES.values() for f in forms} == set(LOWERINGS)
    model = whole()
    count = lower(model, form)
    assert count == (0 if form == "portable" else 1)
    assert lower(parse("agraph (float[N] x) => (float[N] y) { y = Neg(x) }"), form) == 0
