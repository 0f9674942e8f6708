"""A part's weights: read tensor by tensor from its safetensors files onto the devices, in the dtype asked for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jax import Array
from numpy.typing import NDArray

from diffrt.errors import CheckpointError, InvalidArgument
from diffrt.flax.parameters import Shape
from diffrt.safetensors_header import TensorEntry
from diffrt.weight_files import HARMLESS, find, headers, no_weights, shards, spellings

DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
SHOWN = 5  # names in an error of each kind, and how many more there are
Tensors = dict[str, tuple[Path, TensorEntry]]
Place = Callable[[str, NDArray[Any]], Array]  # (name, values) -> the same on its devices


def checked_dtype(dtype: Any) -> np.dtype:
    """That of networks and parameters, or InvalidArgument."""
    known = [np.dtype(each) for each in DTYPES.values()]
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found not in known:
        raise InvalidArgument(f"dtype is {dtype!r}: give jnp.float32, jnp.bfloat16 or jnp.float16")
    return found


def load(folder: Path, shapes: Mapping[str, Shape], dtype: Any, place: Place) -> dict[str, Array]:
    """The tensors of these names and shapes. CheckpointError lists all that do not fit: before any is read."""
    stored = open_headers(folder)
    return {
        name: place(name, np.ascontiguousarray(read(*stored[there]).astype(dtype)))
        for name, there in fitting(folder, stored, shapes).items()
    }


def on_default_device(name: str, values: NDArray[Any]) -> Array:
    return jax.device_put(values)


def open_headers(folder: Path) -> Tensors:
    """Of the full weights where there are any, else of the fp16 variant."""
    for mark in ("", ".fp16"):
        file = find(folder, mark)
        if file is not None:
            return headers(shards(file) if file.suffix == ".json" else [file])
    if any(folder.glob("*.msgpack")):
        raise CheckpointError(
            f"{folder.name}/ holds only flax's own msgpack weights: load the checkpoint's main revision, which has "
            "safetensors"
        )
    raise no_weights(folder)


def fitting(folder: Path, stored: Tensors, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """What each of the network's tensors is called in the files, which depends on the checkpoint's age."""
    found = {name: next((n for n in spellings(name) if n in stored), None) for name in shapes}
    used = set(found.values())
    wrong = {
        "missing": [name for name, there in found.items() if there is None],
        "unexpected": [n for n in stored if n not in used and n.rpartition(".")[2] not in HARMLESS],
        "of another shape": [
            f"{name} {list(stored[there][1].shape)} for {list(as_stored(shapes[name]))}"
            for name, there in found.items()
            if there and stored[there][1].shape != as_stored(shapes[name])
        ],
        "of another dtype": [
            f"{n} {stored[n][1].dtype}" for n in found.values() if n and stored[n][1].dtype not in DTYPES
        ],
    }
    if any(wrong.values()):
        told = "; ".join(f"{len(names)} {what}: {_listed(names)}" for what, names in wrong.items() if names)
        raise CheckpointError(f"{folder.name}/ does not fit its config.json: tensors {told}")
    return {name: there for name, there in found.items() if there}


def as_stored(shape: Shape) -> Shape:
    """A checkpoint's convolutions are [out,in,kh,kw], here they are [kh,kw,in,out]: in a loop, XLA's CPU backend takes
    17 times as long for the former."""
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape


def read(file: Path, entry: TensorEntry) -> NDArray[Any]:
    """A view of the file; only what is used of it is read."""
    data = np.memmap(file, np.uint8, "r", entry.offset, (entry.length,)).view(DTYPES[entry.dtype])
    return data.reshape(entry.shape).transpose(2, 3, 1, 0) if len(entry.shape) == 4 else data.reshape(entry.shape)


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
