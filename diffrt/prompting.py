r"""What a prompt says: its fragments and their weights, and how weights act on embeddings. Pure functions.

Weighted text is read as AUTOMATIC1111's web interface and sd_embed read it:

    (word) x 1.1    ((word)) x 1.21    (word:1.3) x 1.3    [word] / 1.1    \( \) \[ \] \\ are letters

A bracket that is never closed reaches to the end, one that was never opened is a letter, and what is no number after
a colon is text. `one prompt AND another :0.8` makes conditions of their own with a weight each, which guidance
composes (Liu et al. 2022, arXiv:2206.01714, eq. 11).
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffrt.errors import InvalidArgument

F32 = NDArray[np.float32]

LARGEST = 100.0  # weight, either side of zero
ROUND, SQUARE = 1.1, 1 / 1.1
NUMBER = r"[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+|nan|inf)"
TOKEN = re.compile(rf"\\[()\[\]\\]?|:\s*(?P<weight>{NUMBER})\s*\)|[()\[\]:]|[^()\[\]\\:]+", re.IGNORECASE)
AND = re.compile(r"\bAND\b")
SHARE = re.compile(rf"(.*?)(?:\s*:\s*({NUMBER}))?\s*", re.IGNORECASE | re.DOTALL)
# [before:after:0.5] and [one|other] change the prompt from step to step elsewhere
EDITING = re.compile(r"(?<!\\)\[[^\[\]]*(?:\||:\s*[.\d]+\s*\])")


class Fragment(NamedTuple):
    text: str
    weight: float


Text = str | tuple[Fragment, ...]  # plain, or weighted


class Condition(NamedTuple):
    text: Text
    weight: float = 1.0


def conditions(prompt: str) -> tuple[Condition, ...]:
    """A weighted prompt, parted at each AND. InvalidArgument where a part is empty or a weight cannot be used."""
    parts = AND.split(prompt)
    if len(parts) == 1:
        return (Condition(fragments(prompt)),)
    found = []
    for part in parts:
        text, weight = SHARE.fullmatch(part).groups()  # type: ignore[union-attr]  # it fits any text
        if not text.strip():
            raise InvalidArgument(f"{prompt!r:.60} has nothing on one side of AND: give a prompt on each")
        found.append(Condition(fragments(text), _checked(float(weight or 1))))
    return tuple(found)


def fragments(text: str) -> tuple[Fragment, ...]:
    """A weighted text as runs of equal weight. InvalidArgument where a weight cannot be used."""
    if EDITING.search(text):
        raise InvalidArgument(f"{text!r:.60} edits the prompt between steps, which is not supported: write \\[ for [")
    pieces: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # at which piece

    def close(bracket: str, factor: float) -> None:
        for i in range(opened[bracket].pop(), len(pieces)):
            weights[i] *= factor

    for found in TOKEN.finditer(text):
        token = found[0]
        if token in opened:
            opened[token].append(len(pieces))
        elif token[-1] == ")" and token[0] != "\\" and opened["("]:
            close("(", float(found["weight"] or ROUND))
        elif token == "]" and opened["["]:
            close("[", SQUARE)
        else:
            pieces.append(token.removeprefix("\\"))
            weights.append(1.0)
    for bracket, factor in (("(", ROUND), ("[", SQUARE)):
        while opened[bracket]:
            close(bracket, factor)

    merged = [Fragment("", 1.0)] if not pieces else []
    for piece, weight in zip(pieces, weights, strict=True):
        if merged and merged[-1].weight == weight:
            merged[-1] = Fragment(merged[-1].text + piece, weight)
        else:
            merged.append(Fragment(piece, _checked(weight)))
    return tuple(merged)


def _checked(weight: float) -> float:
    if not abs(weight) <= LARGEST:
        raise InvalidArgument(f"a prompt has the weight {weight:g}: give one from -{LARGEST:g} to {LARGEST:g}")
    return weight


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
