"""A part's tensors with some of its layers in 8 bits: one file that holds all that its graphs need."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from diffrt.safetensors_header import TensorEntry
from diffrt.weight_files import STEMS, headers

from ..safetensors_writer import Stored, write_header, write_tensors
from ..weights import Weights
from .layers import Layer
from .rewriting import rounded, scaled


def write(weights: Weights, layers: Iterable[Layer], folder: Path, float_too: Iterable[str]) -> Weights:
    """Write ``<stem>.int8.safetensors`` into ``folder`` and return the weights in it: of each layer the weight in
    8 bits, as its node takes it, and its scales; and the other tensors as they are, with those named in
    ``float_too``."""
    stem = next(s for s in STEMS if weights.files[0].name.startswith(s))
    layers = list(layers)
    replaced = {str(layer.weight.name) for layer in layers} - {*float_too}
    tensors = {
        name: Stored(entry.dtype, entry.shape, partial(read, file, entry))
        for name, (file, entry) in weights.tensors.items()
        if name not in replaced
    }
    for layer in layers:
        taken = partial(rows, *weights.tensors[str(layer.weight.name)], layer)
        tensors[rounded(layer.name)] = Stored("I8", layer.shape, partial(in_8_bits, taken, layer.transposed))
        tensors[scaled(layer.name)] = Stored("F32", (layer.shape[layer.outputs_axis],), partial(scales, taken))
    target = folder / f"{stem}.int8.safetensors"
    write_header(target, tensors)
    write_tensors(target, tensors)
    return Weights(folder, weights.precision, headers([target]))


def read(file: Path, entry: TensorEntry) -> memoryview:
    return np.fromfile(file, np.uint8, entry.length, offset=entry.offset).data


def rows(file: Path, entry: TensorEntry, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """A layer's weight as [outputs,-1] and the scale of each row: its largest magnitude is 127."""
    outputs = entry.shape[0] // layer.parts
    numbers = math.prod(entry.shape) // layer.parts
    start = entry.offset + layer.part * numbers * 4
    tensor = np.fromfile(file, "<f4", numbers, offset=start).reshape(outputs, -1)
    scale = np.abs(tensor).max(axis=1) / np.float32(127)
    return tensor, np.where(scale > 0, scale, 1).astype("<f4")


def in_8_bits(taken: Callable[[], tuple[np.ndarray, np.ndarray]], transposed: bool) -> memoryview:
    tensor, scale = taken()
    whole = np.rint(tensor / scale[:, None]).astype(np.int8)
    return np.ascontiguousarray(whole.T if transposed else whole).view(np.uint8).ravel().data


def scales(taken: Callable[[], tuple[np.ndarray, np.ndarray]]) -> memoryview:
    return taken()[1].view(np.uint8).data
