"""Tensors that have not been read yet, and writing them to a safetensors file.

A file is written in two steps, its header at once and its tensors later, one by one: a checkpoint's shapes can be
checked before gigabytes are copied, and memory holds one tensor.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffrt.errors import CheckpointError
from diffrt.safetensors_header import ITEMSIZE, header_length


@dataclass(frozen=True)
class Stored:
    dtype: str  # a key of ITEMSIZE
    shape: tuple[int, ...]
    read: Callable[[], bytes | memoryview]  # row by row

    @property
    def length(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]

    def part(self, index: int, count: int) -> "Stored":
        """One of ``count`` equal parts along the first axis."""
        size = self.length // count
        return Stored(
            self.dtype,
            (self.shape[0] // count, *self.shape[1:]),
            lambda: memoryview(self.read())[index * size : (index + 1) * size],
        )

    def reshaped(self, *shape: int) -> "Stored":
        return replace(self, shape=shape)


def in_order(tensors: Mapping[str, Stored]) -> list[tuple[str, Stored]]:
    """Widest first, so that each begins at a multiple of its size."""
    return sorted(tensors.items(), key=lambda item: (-ITEMSIZE[item[1].dtype], item[0]))


def write_header(file: Path, tensors: Mapping[str, Stored]) -> None:
    """Begin a safetensors file of its final size; write_tensors fills it."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in in_order(tensors):
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [end, end + tensor.length]}
        end += tensor.length
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with file.open("xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)


def write_tensors(file: Path, tensors: Mapping[str, Stored]) -> None:
    with file.open("r+b") as stream:
        stream.seek(header_length(file))
        for name, tensor in in_order(tensors):
            data = tensor.read()
            if len(data) != tensor.length:
                raise CheckpointError(f"tensor {name!r}: {len(data)} bytes of {tensor.length}; the source has changed")
            stream.write(data)
