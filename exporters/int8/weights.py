"""A part's tensors with some of them in 8 bits: one file that holds all that its graphs need."""

import math
from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np

from diffrt.safetensors_header import TensorEntry
from diffrt.weight_files import STEMS, headers

from ..safetensors_writer import Stored, write_header, write_tensors
from ..weights import Weights
from .rewriting import scaled


def write(weights: Weights, quantized: Collection[str], folder: Path) -> Weights:
    """Write ``<stem>.int8.safetensors`` into ``folder`` and return the weights in it."""
    stem = next(s for s in STEMS if weights.files[0].name.startswith(s))
    tensors = {}
    for name, (file, entry) in weights.tensors.items():
        if name in quantized:
            tensors[name] = Stored("I8", entry.shape, partial(rounded, file, entry))
            tensors[scaled(name)] = Stored("F32", entry.shape[:1], partial(scales, file, entry))
        else:
            tensors[name] = Stored(entry.dtype, entry.shape, partial(read, file, entry))
    target = folder / f"{stem}.int8.safetensors"
    write_header(target, tensors)
    write_tensors(target, tensors)
    return Weights(folder, weights.precision, headers([target]))


def read(file: Path, entry: TensorEntry) -> memoryview:
    return np.fromfile(file, np.uint8, entry.length, offset=entry.offset).data


def rows(file: Path, entry: TensorEntry) -> tuple[np.ndarray, np.ndarray]:
    """A tensor as [outputs,-1] and the scale of each row: its largest magnitude is 127."""
    tensor = np.fromfile(file, "<f4", math.prod(entry.shape), offset=entry.offset).reshape(entry.shape[0], -1)
    scale = np.abs(tensor).max(axis=1) / np.float32(127)
    return tensor, np.where(scale > 0, scale, 1).astype("<f4")


def rounded(file: Path, entry: TensorEntry) -> memoryview:
    tensor, scale = rows(file, entry)
    return np.rint(tensor / scale[:, None]).astype(np.int8).view(np.uint8).ravel().data


def scales(file: Path, entry: TensorEntry) -> memoryview:
    return rows(file, entry)[1].view(np.uint8).data
