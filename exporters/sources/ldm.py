"""A single-file Stable Diffusion checkpoint's tensors, sorted into diffusers' parts and renamed; no tensor is read."""

from collections.abc import Iterator, Mapping

from diffrt.errors import CheckpointError

from ..safetensors_writer import Stored
from .names import FUSED, IGNORED, INNER, OTHERS, PARTS, STAGES

Tensors = Mapping[str, Stored]


def split(tensors: Tensors) -> dict[str, tuple[str, dict[str, Stored]]]:
    """part -> (its naming, its tensors under the names they have within it).

    Raises CheckpointError for a file of another kind, an unknown tensor, a part that is not there, or mixed dtypes.
    """
    for mark, meaning in OTHERS:
        if any(mark in name for name in tensors):
            raise CheckpointError(f"it looks like {meaning}: Stable Diffusion 1 and 2 checkpoints can be exported")
    parts: dict[str, tuple[str, dict[str, Stored]]] = {}
    dtypes: dict[str, str] = {}
    for name, tensor in tensors.items():
        if name.startswith(IGNORED):
            continue
        prefix = next((p for p in PARTS if name.startswith(p)), None)
        if prefix is None:
            raise CheckpointError(f"tensor {name!r} belongs to no Stable Diffusion 1 or 2 checkpoint")
        part, naming = PARTS[prefix]
        if parts.setdefault(part, (naming, {}))[0] != naming:
            raise CheckpointError(f"tensor {name!r}: there are two text encoders in the file")
        parts[part][1][name.removeprefix(prefix)] = tensor
        dtypes.setdefault(tensor.dtype, name)
    for prefix, (part, _) in PARTS.items():
        if part not in parts:
            raise CheckpointError(f"it holds no {part}: no tensor's name begins with {prefix!r}")
    if len(dtypes) > 1:
        (one, first), (other, second) = sorted(dtypes.items())[:2]
        raise CheckpointError(
            f"{first!r} is {one} and {second!r} is {other}: save all tensors in one dtype, float32 or float16"
        )
    return parts


def renamed(naming: str, tensors: Tensors, blocks: int, layers: int) -> dict[str, Stored]:
    """A part's tensors under diffusers' names: fused projections taken apart, 1x1 convolutions made linear."""
    stages, found = expand(naming, blocks, layers), {}
    for old, tensor in tensors.items():
        for new, piece in pieces(naming, translate(naming, stages, old), tensor):
            if new in found:
                raise CheckpointError(f"two tensors of the file are {new!r}; one is {old!r}")
            found[new] = piece
    return found


def expand(naming: str, blocks: int, layers: int) -> dict[str, str]:
    """Each module's name in the file -> its name in diffusers."""
    names: dict[str, str] = {}
    for i in range(max(1, blocks)):
        for j in range(layers + 1):
            up = (layers + 1) * i + j
            numbers = {"i": i, "j": j, "mirror": blocks - 1 - i, "up": up, "down": 1 + up}
            names |= {old.format(**numbers): new.format(**numbers) for old, new in STAGES[naming]}
    return names


def translate(naming: str, stages: Mapping[str, str], name: str) -> str:
    words = name.split(".")
    for k in range(len(words), 0, -1):  # the longest module name that is known
        stage = stages.get(".".join(words[:k]))
        if stage is not None:
            rest = ".".join(words[k:])
            old = next((o for o in INNER[naming] if rest.startswith(o + ".")), None)
            rest = INNER[naming][old] + rest.removeprefix(old) if old else rest
            return f"{stage}.{rest}" if rest else stage
    raise CheckpointError(f"tensor {name!r} belongs to no Stable Diffusion 1 or 2 {naming}")


def pieces(naming: str, name: str, tensor: Stored) -> Iterator[tuple[str, Stored]]:
    fused = next((end for end in FUSED if name.endswith(end)), None)
    if fused is not None:
        for index, end in enumerate(FUSED[fused]):
            yield name.removesuffix(fused) + end, tensor.part(index, len(FUSED[fused]))
    elif naming == "vae" and ".attentions." in name and tensor.shape[2:] == (1, 1):
        yield name, tensor.reshaped(*tensor.shape[:2])
    else:
        yield name, tensor
