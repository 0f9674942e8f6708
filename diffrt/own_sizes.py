"""Models that draw at sizes of their own (Chen et al. 2023, arXiv:2310.00426): one that is asked for another size draws
at its own of the nearest ratio, and the picture is scaled until it covers what was asked, and cropped.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Size = tuple[int, int]  # height, width


def nearest_of(sizes: Sequence[Size], asked: Size) -> Size:
    """The one whose ratio, to two decimals as it is known by, is nearest; the first of several."""
    ratio = asked[0] / asked[1]
    return min(sizes, key=lambda size: abs(round(size[0] / size[1], 2) - ratio))


def covering(pictures: F32, asked: Size) -> F32:  # [B,3,H,W] -> [B,3,*asked]
    """Bilinear, without smoothing where it shrinks; of what is too much, the middle."""
    drawn = pictures.shape[2:]
    if drawn == asked:
        return pictures
    factor = max(new / old for new, old in zip(asked, drawn, strict=True))
    for axis, new in zip((2, 3), asked, strict=True):
        whole = int(pictures.shape[axis] * factor)
        first = (whole - new) // 2
        pictures = _resampled(pictures, axis, whole, range(first, first + new))
    return pictures


def _resampled(pictures: F32, axis: int, length: int, places: range) -> F32:
    """Those places of an axis that is made so long; pixels are areas, and the edges go on as they are. In float32, as
    the reference computes where they lie."""
    old, half = pictures.shape[axis], np.float32(0.5)
    at = np.maximum((np.array(places, np.float32) + half) * np.float32(old / length) - half, 0)
    before = at.astype(np.int64)
    shape = [len(places) if i == axis else 1 for i in range(pictures.ndim)]
    share = (at - before.astype(np.float32)).reshape(shape)
    after = np.minimum(before + 1, old - 1)
    return pictures.take(before, axis) * (1 - share) + pictures.take(after, axis) * share
