"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, eq. 6, in the convention where 1 is no guidance).

m = m(nothing) + scale * (m(prompt) - m(nothing))

With several conditions each adds its part (Liu et al. 2022, arXiv:2206.01714, eq. 11).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from diffrt.errors import InvalidArgument

F32 = NDArray[np.float32]
Model = Callable[[F32, float], F32]  # (x [B,C,h,w], t) -> [B,C,h,w]
Conditioned = Callable[[F32, float, F32], F32]  # (x, t, embeds [B,S,D]) -> [B,C,h,w]


def is_guided(scale: float) -> bool:
    """At a scale of 1 or below there is nothing to guide away from: one evaluation, not two."""
    return scale > 1


def guide(model: Conditioned, embeds: F32, negative: F32 | None, scale: float | F32) -> Model:
    """The model of x and t alone. embeds [K*B,S,D], the first conditions of all B pictures, then the second ones;
    negative [B,S,D], with None it is not guided; scale: one number, or [K,B], one for each condition of each picture.

    All go through the model as one batch, the negative first. Raises InvalidArgument where they cannot.
    """
    if negative is None:
        return lambda x, t: model(x, t, embeds)
    count, rest = divmod(len(embeds), len(negative))
    if rest or negative.shape[1:] != embeds.shape[1:]:
        raise InvalidArgument(
            f"the embeddings of the prompt have the shape {list(embeds.shape)}, those of the negative prompt "
            f"{list(negative.shape)}: pass negative_prompt_embeds of the same shape, or chunks='auto'"
        )
    everything = np.concatenate([negative, embeds])
    scales = np.broadcast_to(np.asarray(scale, np.float32), (count, len(negative)))[..., None, None, None]

    def guided(x: F32, t: float) -> F32:
        without, *conditions = np.split(model(np.concatenate([x] * (1 + count)), t, everything), 1 + count)
        return without + sum(k * (with_prompt - without) for k, with_prompt in zip(scales, conditions, strict=True))

    return guided
