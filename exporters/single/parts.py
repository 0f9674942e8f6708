"""A bundle's graphs as building blocks: of one size of picture, named apart, in the form that is asked for."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from diffrt.bundle import Bundle
from diffrt.errors import ExportError

from ..int8.rewriting import resize_all_axes
from ..lowering import lower
from ..passes import clean
from ..passes.shapes import drop_inner_shapes
from ..passes.widen import widen


def load(bundle: Bundle, component: str, outputs: Collection[str], form: str, axes: dict[str, int]) -> ir.Model:
    """A component's graph with `axes` made static, its shape arithmetic folded, some of its outputs, and its attention
    in a form of exporters/lowering.py. Weights are mapped from the bundle's files.

    It computes in fp32, also with fp16 weights. On processors ONNX Runtime would do so too, but what it then casts in a
    loop's body it does not fold, and convolutions lose their blocked form."""
    spec = bundle.component(component)
    files = [v.file for v in spec.variants if v.attention == "portable" and v.static is None]
    if not files:
        raise ExportError(f"{bundle.root} has no portable graph of the {component}: export it with --attention auto")
    model = ir.load(bundle.path(files[0]))
    for weight in model.graph.initializers.values():
        if isinstance(weight.const_value, ir.ExternalTensor):
            weight.const_value = mapped(weight.const_value)
    for boundary in model.graph.inputs:
        assert boundary.shape is not None
        # named apart: ONNX Runtime takes axes of one name to be of one size, and a guided batch is twice the pictures
        named = {str(axis): f"{component}/{axis}" for axis in boundary.shape if not isinstance(axis, int)} | axes
        boundary.shape = ir.Shape([named.get(str(axis), axis) for axis in boundary.shape])
    model.graph.outputs[:] = [boundary for boundary in model.graph.outputs if boundary.name in outputs]
    for boundary in model.graph.outputs:
        boundary.shape = None
    infer_shapes(model)
    widen(model, [node for node in model.graph if node.op_type != "Constant"])
    clean(model)
    if spec.quantized:
        resize_all_axes(model)
    lower(model, form)
    drop_inner_shapes(model)
    for node in model.graph:
        node.name = f"{component}/{node.name}"
        for result in node.outputs:
            result.name = f"{component}/{result.name}"
    for name, weight in list(model.graph.initializers.items()):
        weight.name = f"{component}/{name}"
    return model


def mapped(tensor: ir.ExternalTensor) -> ir.Tensor:
    """The same in memory, read when it is written. onnx-ir's own way refuses hard links, which a bundle has; where a
    tensor lies, Bundle.open has checked."""
    assert tensor.offset is not None and tensor.length is not None
    data = np.memmap(tensor.path, np.uint8, "r", tensor.offset, (tensor.length,))
    return ir.Tensor(data.view(tensor.dtype.numpy()).reshape(tensor.shape.numpy()), name=tensor.name)


def infer_shapes(model: ir.Model) -> None:
    with norms_that_are_known(model):
        ShapeInferencePass(data_prop=True)(model)


@contextmanager
def norms_that_are_known(model: ir.Model) -> Iterator[None]:
    """onnx infers no shape of a GroupNormalization; it does for an InstanceNormalization of the same inputs."""
    norms = [node for node in model.graph if node.op_type == "GroupNormalization"]
    for node in norms:
        node.op_type = "InstanceNormalization"
    try:
        yield
    finally:
        for node in norms:
            node.op_type = "GroupNormalization"
