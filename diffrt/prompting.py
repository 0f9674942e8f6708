r"""What a prompt says: its conditions, their fragments, and the weights of both.

Weighted text is read as AUTOMATIC1111's web interface and sd_embed read it:

    (word) x 1.1    ((word)) x 1.21    (word:1.3) x 1.3    [word] / 1.1    \( \) \[ \] \\ are letters

A bracket that is never closed reaches to the end, one that was never opened is a letter, and what is no number after
a colon is text. `one prompt AND another :0.8` makes conditions of their own with a weight each, which guidance
composes (Liu et al. 2022, arXiv:2206.01714, eq. 11).
"""

import re
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

from diffrt.errors import InvalidArgument, nearest
from diffrt.weighting import WEIGHTINGS

MOST_CHUNKS = 16
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


def parsed(prompts: Sequence[str], weighting: str | None) -> list[tuple[Condition, ...]]:
    """What each prompt says, by whether its text is weighted. InvalidArgument where that cannot be used."""
    if weighting is None:
        return [(Condition(prompt),) for prompt in prompts]
    if not isinstance(weighting, str) or weighting not in WEIGHTINGS:
        raise InvalidArgument(f"unknown weighting {weighting!r:.60}: {nearest(str(weighting), WEIGHTINGS)}")
    return [conditions(prompt) for prompt in prompts]


def read(texts: tuple[str, ...], weighting: str | None) -> tuple[Text, ...]:
    """Plain or weighted; AND is a word in them."""
    return texts if weighting is None else tuple(map(fragments, texts))


def checked_chunks(value: Any) -> int | str:
    """A number of chunks, or "auto". InvalidArgument for anything else."""
    if isinstance(value, str) and value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, Integral) or value not in range(1, MOST_CHUNKS + 1):
        raise InvalidArgument(f"chunks is {value!r:.60}: give a whole number from 1 to {MOST_CHUNKS}, or 'auto'")
    return int(value)


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
