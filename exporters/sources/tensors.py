"""The tensors of a safetensors file or of a pickle, none of them read yet."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffrt.errors import CheckpointError
from diffrt.safetensors_header import HeaderError, read_header

from ..safetensors_writer import Stored

TORCH_DTYPES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.bool: "BOOL",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
}  # fmt: skip
CONVERT = "load it with PyTorch where you trust it and save its tensors with safetensors.torch.save_file"


def from_safetensors(file: Path) -> dict[str, Stored]:
    try:
        header = read_header(file)
    except HeaderError as error:
        raise CheckpointError(str(error)) from None
    return {n: Stored(e.dtype, e.shape, partial(read_bytes, file, e.offset, e.length)) for n, e in header.items()}


def read_bytes(file: Path, offset: int, length: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def from_pickle(file: Path) -> dict[str, Stored]:
    """The tensors of a file that torch.save wrote, where it holds nothing that could run.

    Raises CheckpointError for any other pickle; no code of it is run. Tensors stay on disk until they are read.
    """
    with file.open("rb") as stream:
        head = stream.read(8)
    if head == b"version ":
        raise CheckpointError(f"{file} is a Git LFS pointer, not the file itself: run git lfs pull")
    if not head.startswith(b"PK\x03\x04"):
        raise CheckpointError(f"{file} is damaged or a pickle of an old form, which can run code when read: {CONVERT}")
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged or hostile file leads to
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it names {named[1]}" if named else str(error).partition(". ")[0]
        raise CheckpointError(
            f"{file} is a pickle, which can run code when read, and not one of tensors alone ({reason:.100}): {CONVERT}"
        ) from None
    step = loaded.get("global_step") if isinstance(loaded, dict) else None
    if isinstance(loaded, dict) and "state_dict" in loaded:
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{file} holds a {type(loaded).__name__}, not tensors by name: {CONVERT}")
    tensors = {str(name): stored(file, name, t) for name, t in loaded.items() if isinstance(t, torch.Tensor)}
    if isinstance(step, int) and 0 <= step < 2**63:
        tensors["global_step"] = Stored("I64", (), lambda: step.to_bytes(8, "little"))
    return tensors


def stored(file: Path, name: Any, tensor: torch.Tensor) -> Stored:
    dtype = TORCH_DTYPES.get(tensor.dtype)
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if dtype is None or not plain or tensor.nbytes > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{file}: tensor {name!r} ({tensor.dtype}) is not a plain array: {CONVERT}")
    tensor = tensor.detach()
    return Stored(
        dtype, tuple(tensor.shape), lambda: tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data.cast("B")
    )
