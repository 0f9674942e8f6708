"""Converting a part's weights to the dtype that a precision is computed in, tensor by tensor, into the bundle being
built."""

import math
from functools import partial
from pathlib import Path

import numpy as np

from diffrt.errors import CheckpointError
from diffrt.safetensors_header import TensorEntry
from diffrt.weight_files import STEMS, headers

from .safetensors_writer import Stored, write_header, write_tensors
from .weights import PRECISIONS, Weights

LARGEST = float(np.finfo(np.float16).max)  # 65504
NUMPY = {"F32": "<f4", "F16": "<f2"}
MARK = {"F32": "", "F16": ".fp16"}  # of the file


def convert(weights: Weights, folder: Path) -> Weights:
    """Write ``<stem>.fp16.safetensors``, or for float32 ``<stem>.safetensors``, into ``folder``, one file whatever the
    shards, and return the weights in it.

    Raises CheckpointError naming a tensor that float16 cannot hold.
    """
    stem = next(s for s in STEMS if weights.files[0].name.startswith(s))
    dtype, *others = PRECISIONS[weights.precision]
    target = folder / f"{stem}{MARK[dtype]}.safetensors"
    tensors = {
        name: Stored(
            dtype if entry.dtype in others else entry.dtype,
            entry.shape,
            partial(converted, name, file, entry, dtype if entry.dtype in others else None),
        )
        for name, (file, entry) in weights.tensors.items()
    }
    write_header(target, tensors)
    write_tensors(target, tensors)
    return Weights(folder, weights.precision, headers([target]))


def converted(name: str, file: Path, entry: TensorEntry, dtype: str | None) -> memoryview:
    """A tensor in another dtype, or its bytes as they are."""
    if dtype is None:
        return np.fromfile(file, np.uint8, entry.length, offset=entry.offset).data
    tensor = floats(file, entry)
    with np.errstate(over="ignore"):
        done = tensor.astype(NUMPY[dtype])
    if dtype == "F16" and not np.isfinite(done).all():
        raise CheckpointError(
            f"{file.parent.name}/: tensor {name!r} has values up to {np.abs(tensor).max():.3g}, which fp16 cannot hold "
            f"(at most {LARGEST:.0f}); export with --precision fp32"
        )
    return done.view(np.uint8).data


def floats(file: Path, entry: TensorEntry) -> np.ndarray:
    """A tensor, flat; bfloat16, which NumPy lacks, as the float32 whose upper half it is. Read, not mapped: mapped
    pages would count as memory."""
    count = math.prod(entry.shape)
    if entry.dtype != "BF16":
        return np.fromfile(file, NUMPY[entry.dtype], count, offset=entry.offset)
    tensor = np.fromfile(file, "<u2", count, offset=entry.offset).astype("<u4")
    tensor <<= 16
    return tensor.view("<f4")
