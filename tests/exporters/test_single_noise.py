"""The noise in a graph is diffrt/philox.py's to the bit."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.passes.common import NameFixPass

from diffrt.philox import Philox
from exporters.nodes import FLOAT, INT64
from exporters.single.assembly import Assembly
from exporters.single.noise import randn

SEEDS = [0, 7, -3, 2**40 + 1, 2**64 - 1]


@pytest.mark.parametrize(
    "shape", [(4, 16, 16), (1, 3, 5), (1, 1, 1), (4, 240, 240), (4, 340, 340)], ids=["", "odd", "one", "two", "four"]
)
def test_equals_the_run_time(shape):
    """For as many elements as a thread makes one, two or four of."""
    main = Assembly("noise")
    out = randn(main, main.input("draws", INT64, ["d"]), main.input("seed", INT64, ["n"]), shape)
    main.output("z", out, FLOAT, ["d", "n", *shape])
    main.graph.opset_imports[""] = 23
    model = ir.Model(main.graph, ir_version=10)
    NameFixPass()(model)
    session = ort.InferenceSession(ir.serde.serialize_model(model).SerializeToString())

    seeds = SEEDS if np.prod(shape) < 1e5 else SEEDS[-1:]
    wanted = [0, 2, 3] if np.prod(shape) < 1e5 else [1]
    streams = [Philox(seed) for seed in seeds]
    expected = np.stack([np.stack([s.randn(shape) for s in streams]) for _ in range(4)])[wanted]
    signed = np.array([seed - 2**64 if seed >= 2**63 else seed for seed in seeds])
    drawn = session.run(None, {"draws": np.array(wanted), "seed": signed})[0]
    assert np.array_equal(drawn.view(np.uint32), expected.view(np.uint32))
