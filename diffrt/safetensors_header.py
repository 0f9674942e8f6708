"""The header of a safetensors file: which tensors it holds, and where. No tensor is read.

A file is an 8-byte little-endian length, that many bytes of JSON, and the tensors, back to back. Everything is
checked before anything is allocated, because a graph's external data points at these offsets.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

LARGEST_HEADER = 100_000_000  # bytes, as in the format's own reader
ITEMSIZE = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F16": 2, "BF16": 2, "U16": 2, "I16": 2,
    "F32": 4, "U32": 4, "I32": 4, "F64": 8, "U64": 8, "I64": 8,
}  # fmt: skip


class HeaderError(ValueError):
    """The file is no safetensors file, or a damaged one. The message names the file and what is wrong."""


@dataclass(frozen=True)
class TensorEntry:
    dtype: str  # a key of ITEMSIZE
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    length: int  # bytes


def header_length(path: str | Path) -> int:
    """Bytes before the tensors: the length field and the JSON. Raises HeaderError."""
    with _opened(path) as file:
        return _start(Path(path), file)


def read_header(path: str | Path) -> dict[str, TensorEntry]:
    """Every tensor of the file, by name. Raises HeaderError, also where the file has bytes too few or too many."""
    path = Path(path)
    with _opened(path) as file:
        start, size = _start(path, file), os.fstat(file.fileno()).st_size
        raw = file.read(start - 8)
    try:
        record = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"{path}: the header is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise HeaderError(f"{path}: the header is a {type(record).__name__}, not an object")
    tensors = {name: _entry(path, name, e, start) for name, e in record.items() if name != "__metadata__"}
    end = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].length)):
        if tensor.offset != end:
            raise HeaderError(f"{path}: tensor {name!r} starts at byte {tensor.offset}, the one before ends at {end}")
        end += tensor.length
    if end != size:
        state = "truncated" if size < end else "corrupt"
        raise HeaderError(f"{path} has {size} bytes, its header describes {end}: the file is {state}")
    return tensors


def _opened(path: str | Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise HeaderError(f"{path} cannot be read: {error.strerror}") from None


def _start(path: Path, file: BinaryIO) -> int:
    """Where the tensors begin; the file is left behind its length field."""
    size, head = os.fstat(file.fileno()).st_size, file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) == 8 and 2 <= length <= min(size - 8, LARGEST_HEADER):
        return 8 + length
    if head.startswith((b"PK\x03\x04", b"\x80")):
        raise HeaderError(
            f"{path} is a pickle, which can run code when read: load it with PyTorch where you trust it and save it "
            "with safetensors.torch.save_file"
        )
    if head == b"version ":
        raise HeaderError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull")
    raise HeaderError(f"{path} is truncated or no safetensors file: {size} bytes, a header of {length} announced")


def _entry(path: Path, name: str, value: Any, start: int) -> TensorEntry:
    value = value if isinstance(value, dict) else {}
    dtype, shape, offsets = (value.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in ITEMSIZE:
        raise HeaderError(f"{path}: tensor {name!r} has the dtype {dtype!r}; known: {', '.join(ITEMSIZE)}")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise HeaderError(f"{path}: tensor {name!r} has no valid shape and data_offsets")
    length = offsets[1] - offsets[0]
    if length != math.prod(shape) * ITEMSIZE[dtype]:
        raise HeaderError(f"{path}: tensor {name!r}, {dtype} {shape}, does not fit its {length} bytes")
    return TensorEntry(dtype, tuple(shape), start + offsets[0], length)


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 64 and all(type(v) is int and 0 <= v < 2**63 for v in value)
