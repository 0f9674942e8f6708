"""Writing a safetensors file tensor by tensor, so that memory holds one at a time."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from diffrt.safetensors_header import ITEMSIZE


def write_safetensors(
    path: Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    tensor_of: Callable[[str], np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the header first, then each tensor as ``tensor_of`` gives it, in the order of ``tensors``.

    tensors    name -> (dtype as safetensors spells it, shape).
    tensor_of  name -> an array of as many bytes; NumPy has no bfloat16, so that its own dtype is not asked for.
    metadata   {"format": "pt"} where there is none: without it transformers refuses the file.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata or {"format": "pt"})}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * ITEMSIZE[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (dtype, shape) in tensors.items():
            array = np.ascontiguousarray(tensor_of(name))
            if array.nbytes != math.prod(shape) * ITEMSIZE[dtype]:
                raise ValueError(f"tensor {name!r} has {array.nbytes} bytes, not those of {dtype} {list(shape)}")
            array.tofile(file)
