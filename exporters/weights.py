"""Finding a module's tensors in a checkpoint's safetensors files, and pointing a graph at them in place."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from diffrt.errors import CheckpointError
from diffrt.safetensors_header import HeaderError, TensorEntry, read_header

STEMS = ("diffusion_pytorch_model", "model")  # diffusers' and transformers' names for a weight file
PRECISIONS = {"fp32": ("F32",), "fp16": ("F16", "F32")}  # precision -> dtypes to export it from; see halves.py
MARKS = {"fp32": ("",), "fp16": (".fp16", "")}  # of the files to look for, in this order
IR_DTYPES = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16}

# Names that checkpoints of different ages give to one tensor: today's -> 2022's.
OLD_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
PREFIX = "text_model."
HARMLESS = ("position_ids",)  # last part of names that are in some checkpoints and that no module needs


@dataclass(frozen=True)
class Weights:
    """The tensors of one checkpoint folder in one precision: ``tensors`` maps a name to its file and header entry."""

    folder: Path
    precision: str
    tensors: Mapping[str, tuple[Path, TensorEntry]]
    index: Path | None = None  # of a sharded checkpoint

    @property
    def to_halve(self) -> bool:
        """Whether there are float32 tensors where the precision is fp16."""
        return self.precision == "fp16" and any(entry.dtype == "F32" for _, entry in self.tensors.values())

    @property
    def files(self) -> list[Path]:
        return sorted({file for file, _ in self.tensors.values()})

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
        extra = [n for n in self.tensors if n not in used and n.rpartition(".")[2] not in HARMLESS]
        if extra:
            raise CheckpointError(f"{where}/: tensor {extra[0]!r} does not fit its config.json ({len(extra)} such)")


def spellings(name: str) -> Iterator[str]:
    """The names a tensor may have in a checkpoint, today's first."""
    yield name
    yield PREFIX + name
    yield name.removeprefix(PREFIX)
    for new, old in OLD_ATTENTION.items():
        if new in name:
            yield name.replace(new, old)


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
    pickles = sorted(f.name for s in (".bin", ".ckpt", ".pt", ".pth") for f in folder.glob(f"*{s}"))
    if pickles:
        raise CheckpointError(
            f"{folder.name}/{pickles[0]} is a pickle, which can run code when read: load the checkpoint with diffusers "
            f"and save it with save_pretrained(..., safe_serialization=True)"
        )
    raise CheckpointError(f"{folder.name}/ holds no weights: expected {STEMS[0]}.safetensors or {STEMS[1]}.safetensors")


def find(folder: Path, mark: str) -> Path | None:
    """A folder's safetensors file, or the index of its shards, whose name bears a variant's mark."""
    for stem in STEMS:
        for name in (
            f"{stem}{mark}.safetensors",
            f"{stem}.safetensors.index{mark}.json",
            f"{stem}.safetensors{mark}.index.json",  # diffusers of early 2024
        ):
            if (folder / name).is_file():
                return folder / name
    return None


def shards(index: Path) -> list[Path]:
    """The files that a sharded checkpoint's index names."""
    names = shard_names(index)
    for name in names:
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent.name}/{name} is missing; {index.name} lists it")
    return [index.parent / name for name in names]


def shard_names(index: Path) -> list[str]:
    """What a sharded checkpoint's index names: plain names of files beside it."""
    suffix = ".bin" if ".bin." in index.name else ".safetensors"
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index.parent.name}/{index.name} is not an index of {suffix[1:]} shards") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(suffix):
            raise CheckpointError(f"{index.parent.name}/{index.name} names {name!r}, not a {suffix[1:]} file beside it")
    return names


def headers(files: Iterable[Path]) -> dict[str, tuple[Path, TensorEntry]]:
    tensors: dict[str, tuple[Path, TensorEntry]] = {}
    for file in files:
        try:
            header = read_header(file)
        except HeaderError as error:
            raise CheckpointError(str(error)) from error
        for name, entry in header.items():
            if name in tensors:
                raise CheckpointError(f"tensor {name!r} is in {tensors[name][0].name} and in {file.name}")
            tensors[name] = (file, entry)
    return tensors


def attach(model: ir.Model, weights: Weights) -> None:
    """Turn each initializer into external data that points into the checkpoint's own file, under its name there.

    The file's plain name is written as location: graphs lie beside their weights.
    """
    for name, value in list(model.graph.initializers.items()):
        stored = weights.stored_name(name)
        if stored is None:
            raise CheckpointError(f"{weights.folder.name}/: the graph needs tensor {name!r}, which is not in the files")
        file, entry = weights.tensors[stored]
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
