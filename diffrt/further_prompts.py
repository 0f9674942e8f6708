"""Prompts of their own for the text encoders after the first: prompt_2, prompt_3 and their negatives."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffrt.arguments import texts_of
from diffrt.errors import InvalidArgument
from diffrt.prompting import Text, read

NUMBERS = ("2", "3")


def further_prompts(
    encoders: int, first: Mapping[str, Any], given: Mapping[str, Any], count: int, weighting: str | None
) -> dict[str, tuple[str, ...]]:
    """Those of `given` that are no None, [count] each. first: what the first encoder reads, by name. InvalidArgument
    for one that no encoder reads, or that cannot be read."""
    found = {}
    for name, value in given.items():
        plain, _, number = name.rpartition("_")
        texts = texts_of(name, value)
        if texts is None:
            continue
        if int(number) > encoders:
            has = f"{encoders or 'no'} text encoder{'s' * (encoders != 1)}"
            raise InvalidArgument(f"{name} is given, and this model has {has}: leave it out")
        if first[plain] is None:
            raise InvalidArgument(f"{name} is given without {plain}, which the first text encoder reads: give both")
        found[name] = matching(texts, count, f"texts of {name}")
        read(found[name], weighting)
    return found


def beside(further: Mapping[str, tuple[str, ...]], name: str, weighting: str | None) -> list[Sequence[Text] | None]:
    """What the encoders after the first read, [P] each; None where that is the prompt, or the negative prompt, which
    `name` says."""
    given = (further.get(f"{name}_{number}") for number in NUMBERS)
    return [None if texts is None else read(texts, weighting) for texts in given]


def matching(texts: tuple[str, ...] | None, count: int, what: str = "negative prompts") -> tuple[str, ...]:
    """One for each prompt, of one for all or one each, or of none."""
    texts = texts or ("",)
    if len(texts) not in (1, count):
        raise InvalidArgument(f"{len(texts)} {what} for {count} prompts: give one, or one each")
    return texts * count if len(texts) == 1 else texts
