"""Scenes made of the pictures there are: two of a thing, a small one, one on a coloured ground, two side by side.

Each has an everyday thing in 3D, as drawn or painted. Every ninth combination is held out: see `held`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from data import EVERYDAY_NAMES, SIZE, Picture, article, noun_of, on_white, paint, rasterise
from PIL import Image

KINDS = {"two": 0.25, "small": 0.15, "ground": 0.25, "and": 0.35}  # and how many of the scenes are of it
COMPOSED = 0.24  # of all draws
GROUNDS = {
    "red": (242, 116, 112), "orange": (255, 180, 108), "yellow": (255, 226, 116), "green": (130, 206, 130),
    "teal": (108, 208, 204), "blue": (120, 172, 250), "purple": (182, 150, 240), "pink": (255, 172, 212),
    "gray": (172, 176, 184),
}  # fmt: skip
UNCOUNTABLE = re.compile(r"(?<![us])s$|bread|broccoli|sushi|fire$|flame|lightning|voltage|sunshine|rain$| and | at ")
PLURALS = ((r"fish$", "fish"), (r"man$", "men"), (r"(wol|lea)f$", r"\1ves"), (r"([^aeiou])y$", r"\1ies"),
           (r"(s|x|z|ch|sh)$", r"\1es"), (r"$", "s"))  # fmt: skip
Thing = tuple[int, str | None]  # a row of the data and the colour it is painted in


@dataclass(frozen=True)
class Scene:
    kind: str
    things: tuple[Thing, ...]  # one, or the left and the right one of "and"
    ground: str | None = None


def held(scene: Scene) -> bool:
    """Every ninth thing is never shown in two, nor small; every ninth pair of things, or of thing and ground, never."""
    place = sum(i for i, _ in scene.things) + (list(GROUNDS).index(scene.ground) if scene.ground else 0)
    return place % 9 == 5


def scenes(known: list[Picture]) -> list[Scene]:
    """The same for the same data."""
    rng = np.random.default_rng(0)
    pool = [i for i, p in enumerate(known) if p.style == "3d" and p.name in EVERYDAY_NAMES]

    def paints(i: int, count: int) -> list[Thing]:
        return [(i, str(c)) for c in rng.permutation(known[i].variants)[:count]]

    found: list[Scene] = []
    for i in pool:
        if not UNCOUNTABLE.search(known[i].name):
            found += [Scene("two", (thing,)) for thing in [(i, None), *paints(i, 2)]]
        found += [Scene("small", (thing,)) for thing in [(i, None), *paints(i, 1)]]
        for thing in [(i, None), *paints(i, 1)]:
            found += [Scene("ground", (thing,), str(g)) for g in rng.permutation(list(GROUNDS))[:4]
                      if g != (thing[1] or known[i].colour)]  # fmt: skip
    for _ in range(2000):
        a, b = (int(i) for i in rng.choice(pool, 2, replace=False))
        left, right = (paints(i, int(rng.random() < 0.5)) or [(i, None)] for i in (a, b))
        found.append(Scene("and", (left[0], right[0])))
    return found


def boxes(scene: Scene) -> list[tuple[int, int, int]]:
    """Where its things are: left, top and size of each, in pixels."""
    if scene.kind == "ground":
        return [(0, 0, SIZE)]
    size = SIZE * 3 // 8 if scene.kind == "small" else SIZE // 2
    top = (SIZE - size) // 2
    return [(top, top, size)] if scene.kind == "small" else [(0, top, size), (size, top, size)]


def compose(scene: Scene, rgba: np.ndarray) -> np.ndarray:
    """The scene as u8 [128,128,3]; `rgba` u8 [N,128,128,4] are the data's."""
    things = [rgba[i] if c is None else paint(rgba[i], c) for i, c in scene.things]
    if scene.ground:
        return on_white(things[0], GROUNDS[scene.ground])
    canvas = np.zeros((SIZE, SIZE, 4), np.uint8)
    for (left, top, size), thing in zip(boxes(scene), things * 2, strict=False):  # a second time in "two" alone
        canvas[top : top + size, left : left + size] = rasterise(Image.fromarray(thing), size)
    return on_white(canvas)


class DrawScenes:
    """Indices of random scenes of `all` by their kind's share; those not `allowed` (bool [len(all)]) never."""

    def __init__(
        self, scenes: list[Scene], allowed: list[bool], rng: np.random.Generator, kinds: dict[str, float] = KINDS
    ):
        self.all, self.rng = scenes, rng
        self.probability = np.array(allowed, float)
        for kind, share in kinds.items():
            mask = np.array([s.kind == kind for s in scenes])
            self.probability[mask] *= share / self.probability[mask].sum() / sum(kinds.values())

    def __call__(self, count: int) -> list[int]:
        return self.rng.choice(len(self.all), count, p=self.probability).tolist()


def plural(noun: str) -> str:
    """ "red apple" -> "red apples", "slice of pizza" -> "slices of pizza" """
    head, *rest = re.split(r"(?= of | with )", noun, maxsplit=1)
    pattern, ending = next(rule for rule in PLURALS if re.search(rule[0], head))
    return "".join([re.sub(pattern, ending, head, count=1), *rest])


def describe(scene: Scene, nouns: list[str], size: str = "small") -> str:
    """The caption, given what the things are called."""
    if scene.kind == "two":
        return f"two {plural(nouns[0])}"
    if scene.kind == "small":
        return f"a {size} {nouns[0]}"
    if scene.kind == "ground":
        return f"{article(nouns[0])} on {article(f'{scene.ground} background')}"
    return f"{article(nouns[0])} and {article(nouns[1])}"


def scene_caption(scene: Scene, known: list[Picture], rng: np.random.Generator) -> str:
    """A random caption. One in ten is empty."""
    if rng.random() < 0.1:
        return ""
    nouns = [noun_of(known[i], colour, rng) for i, colour in scene.things]
    while scene.kind == "two" and UNCOUNTABLE.search(nouns[0]):  # its name is not
        nouns = [noun_of(known[scene.things[0][0]], scene.things[0][1], rng)]
    return describe(scene, nouns, str(rng.choice(["small", "small", "tiny", "little"])))
