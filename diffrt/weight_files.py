"""The weight files of a checkpoint's part: their names, and those of the tensors in them, through the ages."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from diffrt.errors import CheckpointError
from diffrt.safetensors_header import HeaderError, TensorEntry, read_header

STEMS = ("diffusion_pytorch_model", "model")  # diffusers' and transformers' names for a weight file

# Names that checkpoints of different ages give to one tensor: today's -> 2022's.
OLD_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
PREFIX, VISION = "text_model.", "vision_model."
TWICE = "encoder.embed_tokens.weight"  # T5's embedding, which some files have beside the one they call shared
# last part of names that are in some checkpoints and that no module needs: W is a Fourier embedding's weight once more
HARMLESS = ("position_ids", "W", "num_batches_tracked")


def spellings(name: str) -> Iterator[str]:
    """The names a tensor may have in a checkpoint, today's first."""
    yield name
    yield PREFIX + name
    yield name.removeprefix(PREFIX)
    if name.startswith(VISION):  # today's transformers has one level less
        yield VISION + name
    if name == "shared.weight":  # T5's, which a decoder would share
        yield TWICE
    for new, old in OLD_ATTENTION.items():
        if new in name:
            yield name.replace(new, old)


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


def no_weights(folder: Path) -> CheckpointError:
    """Why a folder has no safetensors: a pickle is named, with how to convert it."""
    pickles = sorted(f.name for s in (".bin", ".ckpt", ".pt", ".pth") for f in folder.glob(f"*{s}"))
    if pickles:
        return CheckpointError(
            f"{folder.name}/{pickles[0]} is a pickle, which can run code when read: load the checkpoint with diffusers "
            f"and save it with save_pretrained(..., safe_serialization=True)"
        )
    return CheckpointError(
        f"{folder.name}/ holds no weights: expected {STEMS[0]}.safetensors or {STEMS[1]}.safetensors"
    )
