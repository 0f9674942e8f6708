"""The reader of graphs agrees with the onnx package, and no bytes make it crash, hang or trust what it must not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffrt import onnx_file
from diffrt.onnx_file import External, OnnxFileError, Value, read_graph, read_initializers

NAMES = {TensorProto.FLOAT: "F32", TensorProto.INT64: "I64", TensorProto.FLOAT16: "F16"}


def external(name="w", dims=(2, 3), dtype=TensorProto.FLOAT, **entries):
    tensor = TensorProto(name=name, data_type=dtype, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (entries or {"location": "w.safetensors", "offset": "64", "length": "24"}).items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def save(tmp_path, nodes=(), initializers=(), **extra):
    graph = helper.make_graph(list(nodes), "g", [], [], initializer=list(initializers))
    for key, value in extra.items():
        getattr(graph, key).extend(value)
    file = tmp_path / "g.onnx"
    file.write_bytes(helper.make_model(graph).SerializeToString())
    return file


def test_agrees_with_onnx(sd1_bundle):
    for file in sd1_bundle.rglob("*.onnx"):
        expected = onnx.load(file, load_external_data=False).graph.initializer
        found = read_initializers(file)
        assert [i.name for i in found] == [i.name for i in expected]
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.shape == tuple(theirs.dims)
            assert mine.dtype == NAMES[theirs.data_type]
            entries = {e.key: e.value for e in theirs.external_data}
            if theirs.data_location == TensorProto.EXTERNAL:
                assert mine.external == External(entries["location"], int(entries["offset"]), int(entries["length"]))
            else:
                assert mine.external is None
        assert any(i.external for i in found)


def test_inline_and_external(tmp_path):
    inline = numpy_helper.from_array(np.zeros((3, 0, 2), np.int64), "inline")
    found = read_initializers(save(tmp_path, initializers=[external(), inline]))
    assert [(i.name, i.dtype, i.shape) for i in found] == [("w", "F32", (2, 3)), ("inline", "I64", (3, 0, 2))]
    assert found[0].external == External("w.safetensors", 64, 24)


def test_the_boundary(tmp_path):
    """Axes with a size, a name or neither, and values of any rank; an initializer is no input."""
    shapes = {"x": [2, "batch", None], "scalar": [], "any": None, "w": [2, 3]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name, shape in shapes.items()]
    graph = read_graph(save(tmp_path, initializers=[external()], input=inputs, output=inputs[:1]))
    x = Value("x", "F16", (2, "batch", ""))
    assert graph.inputs == {"x": x, "scalar": Value("scalar", "F16", ()), "any": Value("any", "F16", None)}
    assert graph.outputs == {"x": x}


def test_data_of_attributes_may_lie_outside_where_asked_for(tmp_path):
    body = helper.make_graph([helper.make_node("Custom", [], ["c"], values=[external("deep")])], "body", [], [])
    nodes = [helper.make_node("Constant", [], ["c"], value=external()), helper.make_node("Loop", [], [], body=body)]
    assert [t.name for t in read_graph(save(tmp_path, nodes)).tensors] == ["w", "deep"]


def test_subgraphs_are_followed(tmp_path):
    inner = helper.make_graph([], "inner", [], [], initializer=[external("deep")])
    middle = helper.make_graph(
        [helper.make_node("Loop", [], [], body=inner)], "m", [], [], initializer=[external("mid")]
    )
    nodes = [helper.make_node("If", ["c"], [], then_branch=middle, else_branch=inner)]
    assert sorted(i.name for i in read_initializers(save(tmp_path, nodes))) == ["deep", "deep", "mid"]


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Constant", [], ["c"], value=external()),
        helper.make_node("Custom", [], ["c"], values=[external()]),
        helper.make_node(
            "Constant", [], ["c"], sparse_value=helper.make_sparse_tensor(external(), external("i"), [4, 4])
        ),
    ],
    ids=["value", "values", "sparse_value"],
)
def test_external_attributes_are_refused(tmp_path, node):
    with pytest.raises(OnnxFileError, match="keeps its data in another file"):
        read_initializers(save(tmp_path, [node]))
    body = helper.make_graph([node], "body", [], [])
    with pytest.raises(OnnxFileError, match="keeps its data in another file"):
        read_initializers(save(tmp_path, [helper.make_node("Loop", [], [], body=body)]))


def test_external_sparse_initializers_and_functions_are_refused(tmp_path):
    sparse = helper.make_sparse_tensor(external(), numpy_helper.from_array(np.zeros(2, np.int64)), [4])
    with pytest.raises(OnnxFileError, match="keeps its data in another file"):
        read_initializers(save(tmp_path, sparse_initializer=[sparse]))
    function = helper.make_function(
        "d", "f", [], ["c"], [helper.make_node("Constant", [], ["c"], value=external())], [helper.make_opsetid("", 23)]
    )
    model = helper.make_model(helper.make_graph([], "g", [], []), functions=[function])
    (tmp_path / "f.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match="keeps its data in another file"):
        read_initializers(tmp_path / "f.onnx")


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "w"},
        {"location": "w", "offset": "0"},
        {"location": "w", "offset": "-1", "length": "24"},
        {"location": "w", "offset": "0x10", "length": "24"},
        {"location": "w", "offset": "1", "length": "9" * 40},
        {"location": "w", "offset": "1", "length": "24", "prepacked_0": "|key|0|4"},
    ],
    ids=str,
)
def test_unclear_places_are_refused(tmp_path, entries):
    with pytest.raises(OnnxFileError, match="needs a location, an offset and a length"):
        read_initializers(save(tmp_path, initializers=[external(**entries)]))


def test_contradictions_are_refused(tmp_path):
    twice = external()
    twice.external_data.add(key="offset", value="0")
    with pytest.raises(OnnxFileError, match="offset twice"):
        read_initializers(save(tmp_path, initializers=[twice]))
    hidden = external()
    hidden.data_location = TensorProto.DEFAULT
    with pytest.raises(OnnxFileError, match="does not say clearly"):
        read_initializers(save(tmp_path, initializers=[hidden]))


def test_limits(tmp_path, monkeypatch):
    graph = helper.make_graph([], "g", [], [])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("Loop", [], [], body=graph)], "g", [], [])
    (tmp_path / "deep.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(OnnxFileError, match="nested deeper"):
        read_initializers(tmp_path / "deep.onnx")
    file = save(tmp_path, [helper.make_node("Add", ["a", "b"], ["c"])] * 50)
    monkeypatch.setattr(onnx_file, "MOST_FIELDS", 100)
    with pytest.raises(OnnxFileError, match="more than 100 fields"):
        read_initializers(file)


@pytest.mark.parametrize(
    "content", [b"", b"\x08", b"hello world", bytes(100), b"\xff" * 100, b"<html>", b"\x3a\x80\x80"]
)
def test_not_a_graph(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(OnnxFileError):
        read_initializers(tmp_path / "x.onnx")


def test_truncated_and_flipped_bytes_never_crash(tmp_path):
    inner = helper.make_graph([], "inner", [], [], initializer=[external("deep")])
    nodes = [helper.make_node("Loop", [], [], body=inner), helper.make_node("Constant", [], ["c"], value_ints=[1, 300])]
    boundary = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "batch"])]
    file = save(tmp_path, nodes, [external(), external("v", (1 << 40,))], input=boundary, output=boundary)
    content, rng = file.read_bytes(), np.random.default_rng(0)
    damaged = [content[:end] for end in range(len(content))]
    for _ in range(800):
        flipped = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            flipped[place] = rng.integers(256)
        damaged.append(bytes(flipped))
    refused = 0
    for each in damaged:
        file.write_bytes(each)
        for read in (read_initializers, read_graph):
            try:
                read(file)
            except OnnxFileError:
                refused += 1
    assert refused > len(content)
