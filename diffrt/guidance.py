"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, eq. 6, in the convention where 1 is no guidance).

m = m(nothing) + scale * (m(prompt) - m(nothing))
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


def guide(model: Conditioned, embeds: F32, negative: F32 | None, scale: float) -> Model:
    """The model of x and t alone. embeds and negative: [B,S,D]; with negative None it is not guided.

    Both halves go through the model as one batch, the negative half first. Raises InvalidArgument where they cannot.
    """
    if negative is None:
        return lambda x, t: model(x, t, embeds)
    if negative.shape != embeds.shape:
        raise InvalidArgument(
            f"the embeddings of the prompt have the shape {list(embeds.shape)}, those of the negative prompt "
            f"{list(negative.shape)}: pass negative_prompt_embeds of the same shape"
        )
    both = np.concatenate([negative, embeds])

    def guided(x: F32, t: float) -> F32:
        without, with_prompt = np.split(model(np.concatenate([x, x]), t, both), 2)
        return without + np.float32(scale) * (with_prompt - without)

    return guided
