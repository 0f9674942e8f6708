"""Fold what depends on constants and known sizes alone; the checkpoint's tensors are never touched."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

LARGEST = 1 << 14  # elements of a folded constant


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array a Constant node gives, or None."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.op_type != "Constant" or node.domain:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def make_constant(node: ir.Node, array: np.ndarray) -> ir.Value:
    """A new Constant before ``node``."""
    tensor = ir.tensor(array)
    new = ir.node("Constant", [], {"value": tensor})
    new.outputs[0].dtype, new.outputs[0].shape = tensor.dtype, ir.Shape(array.shape)
    assert node.graph is not None
    node.graph.insert_before(node, new)
    return new.outputs[0]


def known_size(node: ir.Node) -> np.ndarray | None:
    """What a Shape node gives where every size in its range is static."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None:
        return None
    attributes = {key: attribute.as_int() for key, attribute in node.attributes.items()}
    sizes = list(shape)[attributes.get("start", 0) : attributes.get("end")]
    return np.array(sizes, np.int64) if all(isinstance(s, int) for s in sizes) else None


def evaluate(node: ir.Node, inputs: list[np.ndarray]) -> np.ndarray:
    names = [f"i{k}" for k in range(len(inputs))]
    proto = onnx.helper.make_node(node.op_type, names, ["o"])
    proto.attribute.extend(ir.serde.serialize_attribute(a) for a in node.attributes.values())
    graph = onnx.helper.make_graph(
        [proto],
        "fold",
        [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
         for n, a in zip(names, inputs, strict=True)],
        [onnx.helper.make_empty_tensor_value_info("o")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)])
    results: Any = ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))
    return np.asarray(results[0])


def fold_constants(model: ir.Model) -> int:
    count = 0
    for node in list(model.graph):
        if node.domain or node.op_type == "Constant" or len(node.outputs) != 1:
            continue
        output = node.outputs[0]
        if node.op_type == "Shape":
            array = known_size(node)
        else:
            inputs = [constant(value) for value in node.inputs]
            if not inputs or any(a is None for a in inputs):
                continue
            array = evaluate(node, inputs)  # type: ignore[arg-type]
        if array is None or array.size > LARGEST or output.is_graph_output():
            continue
        ir.convenience.replace_all_uses_with(output, make_constant(node, array))
        count += 1
    return count
