"""Converting a part's float32 weights to float16, tensor by tensor, into the bundle being built."""

import math
from functools import partial
from pathlib import Path

import numpy as np

from diffrt.errors import CheckpointError
from diffrt.safetensors_header import TensorEntry
from diffrt.weight_files import STEMS, headers

from .safetensors_writer import Stored, write_header, write_tensors
from .weights import Weights

LARGEST = float(np.finfo(np.float16).max)  # 65504


def halve(weights: Weights, folder: Path) -> Weights:
    """Write ``<stem>.fp16.safetensors`` into ``folder``, one file whatever the shards, and return the weights in it.

    Raises CheckpointError naming a tensor that float16 cannot hold.
    """
    stem = next(s for s in STEMS if weights.files[0].name.startswith(s))
    target = folder / f"{stem}.fp16.safetensors"
    tensors = {
        name: Stored("F16" if entry.dtype == "F32" else entry.dtype, entry.shape, partial(converted, name, file, entry))
        for name, (file, entry) in weights.tensors.items()
    }
    write_header(target, tensors)
    write_tensors(target, tensors)
    return Weights(folder, weights.precision, headers([target]))


def converted(name: str, file: Path, entry: TensorEntry) -> memoryview:
    """A float32 tensor as float16, any other as its bytes. Read, not mapped: mapped pages would count as memory."""
    if entry.dtype != "F32":
        return np.fromfile(file, np.uint8, entry.length, offset=entry.offset).data
    tensor = np.fromfile(file, "<f4", math.prod(entry.shape), offset=entry.offset)
    with np.errstate(over="ignore"):
        half = tensor.astype("<f2")
    if not np.isfinite(half).all():
        raise CheckpointError(
            f"{file.parent.name}/: tensor {name!r} has values up to {np.abs(tensor).max():.3g}, which fp16 cannot hold "
            f"(at most {LARGEST:.0f}); export with --precision fp32"
        )
    return half.view(np.uint8).data
