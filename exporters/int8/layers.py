"""The layers of a traced graph that could compute in 8 bits."""

from dataclasses import dataclass

import onnx_ir as ir

NARROW = 16  # channels, below which a layer is at an end of the network: its error is all of the output's


@dataclass(frozen=True)
class Layer:
    """A Conv or MatMul whose weight is a tensor of the checkpoint, or one of its equal parts along the first axis."""

    node: ir.Node
    weight: ir.Value  # the checkpoint's tensor, [outputs,inputs,...]
    part: int
    parts: int

    @property
    def name(self) -> str:
        """A graph of another picture size has it too."""
        return f"{self.weight.name}[{self.part}]" if self.parts > 1 else str(self.weight.name)

    @property
    def transposed(self) -> bool:
        """Whether the node takes its weight as [inputs,outputs]."""
        return self.node.op_type == "MatMul"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that the node takes."""
        assert self.weight.shape is not None
        whole = self.weight.shape.numpy()
        outputs = whole[0] // self.parts
        return (whole[1], outputs) if self.transposed else (outputs, *whole[1:])

    @property
    def outputs_axis(self) -> int:
        return 1 if self.transposed else 0


def layers(model: ir.Model) -> dict[str, Layer]:
    """By name."""
    ends = {*model.graph.inputs, *model.graph.outputs}
    found = {}
    for node in model.graph:
        if node.domain or node.op_type not in ("Conv", "MatMul") or node.attributes.get_int("group", 1) != 1:
            continue
        layer = of(node)
        if layer is None or layer.weight.shape is None or ends & {node.inputs[0], node.outputs[0]}:
            continue
        if all(isinstance(size, int) and size >= NARROW for size in layer.weight.shape[:2]):
            found[layer.name] = layer
    return found


def of(node: ir.Node) -> Layer | None:
    """None: its weight is computed, or lies in the checkpoint otherwise than PyTorch's layers have theirs."""
    weight, part, parts, turned = node.inputs[1], 0, 1, False
    while weight is not None and not weight.is_initializer():
        on_the_way = weight.producer()
        if on_the_way is None or on_the_way.op_type not in ("Transpose", "Split"):
            return None
        if on_the_way.op_type == "Split":
            part, parts = on_the_way.outputs.index(weight), len(on_the_way.outputs)
        else:
            turned = not turned
        weight = on_the_way.inputs[0]
    return Layer(node, weight, part, parts) if weight is not None and turned == (node.op_type == "MatMul") else None
