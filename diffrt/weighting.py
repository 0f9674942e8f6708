"""How weights act on embeddings: on those of single tokens, and on those of whole prompts."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffrt.errors import InvalidArgument

F32 = NDArray[np.float32]


def _scale(z: F32, weights: F32, empty: F32) -> F32:
    """As sd_embed weighs."""
    return z * weights


def _mean(z: F32, weights: F32, empty: F32) -> F32:
    """As AUTOMATIC1111 weighs: then the mean of each chunk is made what it was."""
    scaled = z * weights
    before, after = (x.mean(axis=(1, 2), keepdims=True, dtype=np.float64) for x in (z, scaled))
    with np.errstate(divide="ignore", invalid="ignore"):
        return scaled * np.where(before == after, 1, before / after).astype(np.float32)


def _empty(z: F32, weights: F32, empty: F32) -> F32:
    """As compel weighs upwards: away from the empty prompt."""
    return np.where(weights == 1, z, empty + (z - empty) * weights)


WEIGHTINGS = {"scale": _scale, "mean": _mean, "empty": _empty}


def weigh(weighting: str, embeds: F32, weights: F32, empty: F32) -> F32:
    """Give each token its weight. embeds [N,L,D], chunks; weights [N,L]; empty [1,L,D], what the empty prompt gives."""
    weighed = WEIGHTINGS[weighting](embeds, weights[..., None], empty)
    if not np.isfinite(weighed).all():
        raise InvalidArgument(f"the prompt's weights cancel out, and weighting={weighting!r} divides by their sum")
    return weighed


def blend(embeds: Sequence[F32], weights: Sequence[float]) -> F32:
    """The weighted sum of embeddings of one shape. For a mixture let the weights sum to 1."""
    if len(embeds) != len(weights) or not len(embeds):
        raise InvalidArgument(f"{len(embeds)} embeddings and {len(weights)} weights: give one weight for each")
    if len({np.shape(each) for each in embeds}) > 1:
        shapes = " and ".join(str(list(np.shape(each))) for each in embeds)
        raise InvalidArgument(f"embeddings of the shapes {shapes}: embed them in one call with chunks='auto'")
    if not all(math.isfinite(weight) for weight in weights):
        raise InvalidArgument(f"the weights are {list(weights)}: give finite numbers")
    return sum(np.float32(weight) * each for weight, each in zip(weights, embeds, strict=True))  # type: ignore[return-value]
