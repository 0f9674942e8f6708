"""Depth maps: from a file, Pillow or an array, of any size and unit, to what a denoiser is told of depth.

A map is resized by cubic convolution without smoothing (Keys 1981, doi:10.1109/TASSP.1981.1163711, with a = -0.75, as
PyTorch has it), then scaled so that it spans -1 to 1.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffrt.errors import InvalidArgument
from diffrt.pictures import as_list

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
A = -0.75
WHAT = "give an array [H,W] or a grey picture"
WIDE = ("I;16", "I;16B", "I;16L", "I", "F")  # Pillow's modes of more than 8 bits, which convert("L") would cut off


def depths(value: Any, count: int, size: tuple[int, int]) -> F32:  # [1 or count,1,h,w] in [-1,1]
    """One map for all prompts, or one each. InvalidArgument where it cannot be used."""
    if value is None:
        raise InvalidArgument(f"depth_map is missing, and this model draws by depth: {WHAT} in which near is large")
    maps = as_list(list(value) if isinstance(value, np.ndarray) and value.ndim == 3 else value)
    if len(maps) not in (1, count):
        raise InvalidArgument(f"depth_map: {len(maps)} maps for {count} prompts: give one, or one each")
    return np.stack([_scaled(resized(_plane(one), size))[None] for one in maps]).astype(np.float32)


def resized(plane: F64, size: tuple[int, int]) -> F64:  # [H,W] -> [h,w]
    rows, columns = (cubic(old, new) for old, new in zip(plane.shape, size, strict=True))
    return rows @ plane @ columns.T


def cubic(old: int, new: int) -> F64:  # [new,old]
    """What takes a line of `old` pixels to one of `new`: four neighbours of each, those beyond an end being its last
    pixel."""
    at = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(at).astype(int) - 1
    weights = np.zeros((new, old))
    for neighbour in (first + k for k in range(4)):
        d = np.abs(at - neighbour)
        near, far = ((A + 2) * d - (A + 3)) * d * d + 1, ((A * d - 5 * A) * d + 8 * A) * d - 4 * A
        np.add.at(weights, (np.arange(new), neighbour.clip(0, old - 1)), np.where(d <= 1, near, far))
    return weights


def _scaled(plane: F64) -> F64:
    low, high = plane.min(), plane.max()
    if low == high:
        raise InvalidArgument("depth_map is the same everywhere, at the size of latents: there is no depth in it")
    return 2 * (plane - low) / (high - low) - 1


def _plane(one: Any) -> F64:
    if isinstance(one, Image.Image):
        one = np.asarray(one if one.mode in WIDE else one.convert("L"))
    if not isinstance(one, np.ndarray) or one.ndim != 2 or not one.size or one.dtype.kind not in "fiu":
        got = f"a {one.dtype} array of shape {list(one.shape)}" if isinstance(one, np.ndarray) else f"{one!r:.60}"
        raise InvalidArgument(f"depth_map is {got}: {WHAT}")
    if not np.isfinite(one).all():
        raise InvalidArgument("depth_map holds NaN or infinity: give finite numbers")
    return one.astype(np.float64)
