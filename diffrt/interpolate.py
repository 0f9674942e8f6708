"""Between two latents or two embeddings: along a line, or along a great circle (Shoemake 1985, SIGGRAPH, section 3.3).

Noise lies close to a sphere, and a model knows nothing of the inside: between latents go round, with slerp.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrt.errors import InvalidArgument

F32 = NDArray[np.float32]

LATENTS = (-3, -2, -1)  # the axes that make one vector: C,h,w
TOKENS = (-1,)
NEARLY = 1e-6  # radians: along so short an arc, or at its opposite, the sine divides by nothing


def lerp(a: F32, b: F32, t: float | Sequence[float] | NDArray[Any]) -> F32:
    """(1-t) a + t b, of a's shape; with an array t [T] as many frames, [T, *a's shape]."""
    a64, b64, t64 = _checked(a, b, t)
    return ((1 - t64) * a64 + t64 * b64).astype(np.float32)


def slerp(a: F32, b: F32, t: float | Sequence[float] | NDArray[Any], axes: tuple[int, ...] = LATENTS) -> F32:
    """From a at t=0 to b at t=1 round the origin, each vector by itself; equal norms are kept. The shape is lerp's.

    `axes` make one vector: LATENTS for latents [...,C,h,w], TOKENS for embeddings [...,S,D]. Vectors of nearly one
    direction go along the line. InvalidArgument for opposite ones: there is no shortest arc.
    """
    a64, b64, t64 = _checked(a, b, t)
    if a64.ndim < len(axes):
        raise InvalidArgument(f"arrays of shape {list(a64.shape)} have no {len(axes)} axes: give axes=(-1,) for rows")
    with np.errstate(divide="ignore", invalid="ignore"):
        unit_a, unit_b = (x / np.sqrt((x * x).sum(axis=axes, keepdims=True)) for x in (a64, b64))
        # accurate for small angles too, as the arc cosine is not
        angle = 2 * np.arctan2(
            *(np.sqrt((x * x).sum(axis=axes, keepdims=True)) for x in (unit_a - unit_b, unit_a + unit_b))
        )
        if (np.pi - angle < NEARLY).any():
            raise InvalidArgument("a and b are opposite, so that no way round is the shortest: change one of them")
        straight = ~(angle > NEARLY)  # also where a vector is nothing
        from_a = np.where(straight, 1 - t64, np.sin((1 - t64) * angle) / np.sin(angle))
        from_b = np.where(straight, t64, np.sin(t64 * angle) / np.sin(angle))
    return (from_a * a64 + from_b * b64).astype(np.float32)


def _checked(a: Any, b: Any, t: Any) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """a, b, and t with axes of size 1 after its own, so that it multiplies them."""
    a64, b64, t64 = (np.asarray(x, np.float64) for x in (a, b, t))
    if a64.shape != b64.shape:
        raise InvalidArgument(f"a has the shape {list(a64.shape)} and b {list(b64.shape)}: give two of one shape")
    if t64.ndim > 1 or not all(np.isfinite(x).all() for x in (a64, b64, t64)):
        raise InvalidArgument("t must be a finite number or a list of them, and a and b finite")
    return a64, b64, t64.reshape(t64.shape + (1,) * (a64.ndim if t64.ndim else 0))
