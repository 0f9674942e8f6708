"""Small models in ONNX's text form, run before and after a rewrite."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes.common import RemoveUnusedNodesPass

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
