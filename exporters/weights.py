"""Finding a module's tensors in a checkpoint's safetensors files, and pointing a graph at them in place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from diffrt.errors import CheckpointError
from diffrt.safetensors_header import TensorEntry
from diffrt.weight_files import HARMLESS, TWICE, find, headers, no_weights, shards, spellings

PRECISIONS = {  # precision -> dtypes to export it from, the one it is computed in first; see conversion.py
    "fp32": ("F32", "BF16"),
    "fp16": ("F16", "F32", "BF16"),
    "int8": ("F32", "F16", "BF16"),
}
WIDENED = {"fp32": ("BF16",)}  # dtypes that stay in their files: the graph makes of them what it computes in, exactly
MARKS = {"fp32": ("",), "fp16": (".fp16", ""), "int8": ("", ".fp16")}  # of the files to look for, in this order
IR_DTYPES = {
    "F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16, "I8": ir.DataType.INT8,
}  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """The tensors of one checkpoint folder in one precision: ``tensors`` maps a name to its file and header entry."""

    folder: Path
    precision: str
    tensors: Mapping[str, tuple[Path, TensorEntry]]
    index: Path | None = None  # of a sharded checkpoint

    @property
    def to_convert(self) -> bool:
        """Whether there are tensors of another dtype than what the precision is computed in, but for what a graph
        widens."""
        other = {*PRECISIONS[self.precision][1:]} - {*WIDENED.get(self.precision, ())}
        return any(entry.dtype in other for _, entry in self.tensors.values())

    @property
    def files(self) -> list[Path]:
        return sorted({file for file, _ in self.tensors.values()})

    @property
    def numbers(self) -> int:
        return sum(math.prod(entry.shape) for _, entry in self.tensors.values())

    def stored_name(self, name: str) -> str | None:
        """The name in the files of the tensor that the module calls ``name``; None where there is none."""
        return next((n for n in spellings(name) if n in self.tensors), None)

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Compare with a module's tensor names and shapes, and raise CheckpointError naming the first misfit."""
        where, dtypes = self.folder.name, PRECISIONS[self.precision]
        used = set()
        for name, shape in expected.items():
            stored = self.stored_name(name)
            if stored is None:
                raise CheckpointError(f"{where}/: tensor {name!r} is missing; its config.json asks for it")
            entry = self.tensors[stored][1]
            if tuple(entry.shape) != tuple(shape):
                raise CheckpointError(
                    f"{where}/: tensor {stored!r} has shape {list(entry.shape)}; its config.json asks for {list(shape)}"
                )
            if entry.dtype not in dtypes:
                other = next((p for p, d in PRECISIONS.items() if entry.dtype in d), None)
                fix = f"export with --precision {other}" if other else "save the checkpoint in float32 or float16"
                raise CheckpointError(f"{where}/: tensor {stored!r} is {entry.dtype}, not {' or '.join(dtypes)}; {fix}")
            used.add(stored)
        extra = [n for n in self.tensors if n not in used and n.rpartition(".")[2] not in HARMLESS and n != TWICE]
        if extra:
            raise CheckpointError(f"{where}/: tensor {extra[0]!r} does not fit its config.json ({len(extra)} such)")


def open_weights(folder: Path, precision: str) -> Weights:
    """Read the headers of a folder's weight files: one file or the shards its index lists, variant ``fp16`` or none.

    fp16 takes the ``fp16`` variant where there is one, else the plain file. Raises CheckpointError where there are no
    safetensors (a pickle is named, with how to convert it), or a file is damaged or missing.
    """
    for mark in MARKS[precision]:
        file = find(folder, mark)
        if file is not None:
            index = file if file.suffix == ".json" else None
            return Weights(folder, precision, headers(shards(file) if index else [file]), index)
    halves = [f.name for f in sorted(folder.glob("*.fp16.*")) if f.suffix in (".safetensors", ".bin")]
    if halves:
        raise CheckpointError(f"{folder.name}/ holds only {halves[0]}: export with --precision fp16")
    raise no_weights(folder)


def attach(model: ir.Model, weights: Weights, real: bool = False) -> None:
    """Turn each initializer into external data that points into the checkpoint's own file, under its name there.

    The file's plain name is written as location: graphs lie beside their weights. What a module that was traced with
    memory has beside them stays in the graph. What is to be widened is cast, in such an order that where casts are not
    folded one tensor at a time is wide.
    """
    widened = WIDENED.get(weights.precision, ())
    for name, value in list(model.graph.initializers.items()):
        stored = weights.stored_name(name)
        if stored is None and real:
            continue
        if stored is None:
            raise CheckpointError(f"{weights.folder.name}/: the graph needs tensor {name!r}, which is not in the files")
        file, entry = weights.tensors[stored]
        if entry.dtype in widened:
            value = narrow(model, value, IR_DTYPES[entry.dtype])
        value.const_value = ir.ExternalTensor(
            file.name,
            entry.offset,
            entry.length,
            IR_DTYPES[entry.dtype],
            shape=ir.Shape(entry.shape),
            name=stored,
            base_dir=file.parent,
        )
        value.name = stored
    if any(entry.dtype in widened for _, entry in weights.tensors.values()):
        to_front(model)


def narrow(model: ir.Model, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Put an initializer of that dtype, and a Cast to float32, in the place of one; returns it."""
    stored = ir.Value(name=value.name, type=ir.TensorType(dtype), shape=value.shape)
    cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
    wide = cast.outputs[0]
    wide.name, wide.type, wide.shape = f"{value.name}.fp32", ir.TensorType(ir.DataType.FLOAT), value.shape
    value.replace_all_uses_with(wide)
    del model.graph.initializers[str(value.name)]
    model.graph.initializers.add(stored)
    model.graph.insert_before(model.graph[0], cast)
    return stored


def to_front(model: ir.Model) -> None:
    """Bring what is computed of weights and constants alone to the front. ONNX Runtime (1.32) orders nodes from the
    outputs back, and of a node's inputs takes the one that stands first last: each weight is then widened right before
    it is used, where those that stand among the layers are all widened before the first layer runs."""
    known, moved = {*model.graph.initializers.values()}, []
    for node in model.graph:
        if all(value is None or value in known for value in node.inputs):
            known.update(node.outputs)
            moved.append(node)
    model.graph.remove(moved)
    model.graph.insert_before(model.graph[0], moved)
