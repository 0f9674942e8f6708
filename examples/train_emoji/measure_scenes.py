"""The part of measure.py that is about the scenes of compose.py.

The judge looks at each of a scene's things where it should be, alone: all of them must be found. A ground's colour is
that of the picture's border, the nearest of those there are and white.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from compose import GROUNDS, KINDS, Scene, boxes, compose, describe, held, scenes
from data import Picture
from judge import Judge, draw
from PIL import Image


def prompt(scene: Scene, known: list[Picture]) -> str:
    return describe(scene, [known[i].name if c is None else f"{c} {known[i].base}" for i, c in scene.things])


def border(picture: np.ndarray) -> np.ndarray:
    """u8 [H,W,3] -> the median colour of its outermost four pixels."""
    inner = np.zeros(picture.shape[:2], bool)
    inner[4:-4, 4:-4] = True
    return np.median(picture[~inner], 0)


def ground_of(picture: np.ndarray) -> str:
    colours = {"white": (255, 255, 255), **GROUNDS}
    return min(colours, key=lambda word: float(np.square(border(picture) - colours[word]).sum()))


def views(scene: Scene, picture: np.ndarray) -> list[np.ndarray]:
    """Each of its things u8 [128,128,3]; one on a coloured ground is put on white, where the judge knows it."""
    if scene.kind == "ground":
        near = np.abs(picture - border(picture)).max(-1, keepdims=True) < 30
        return [np.where(near, np.uint8(255), picture)]
    return [np.asarray(Image.fromarray(picture[top : top + size, left : left + size]).resize((128, 128)))
            for left, top, size in boxes(scene)]  # fmt: skip


def score(judge: Judge, group: list[Scene], pictures: np.ndarray) -> dict[str, float]:
    """Shares of the scenes in which the names of all things are found, and the ground."""
    seen, rows, owner = [], [], []
    for k, (scene, picture) in enumerate(zip(group, pictures, strict=True)):
        for thing, view in zip(scene.things * 2, views(scene, picture), strict=False):
            seen.append(view)
            rows.append(thing)
            owner.append(k)
    found = judge.look(np.stack(seen), rows)
    shares = {}
    for key in ("top1", "top10"):
        missed = torch.zeros(len(group)).index_add(0, torch.tensor(owner), (~found[key]).float())
        shares[key] = float((missed == 0).float().mean())
    if group[0].ground:
        right = [ground_of(picture) == scene.ground for scene, picture in zip(group, pictures, strict=True)]
        shares["ground"] = float(np.mean(right))
    return {k: round(v, 3) for k, v in shares.items()}


def measure_scenes(judge: Judge, known: list[Picture], rgba: np.ndarray, model: str, count: int,
                   asked: dict[str, Any]) -> dict[str, Any]:  # fmt: skip
    """Groups as in measure.py; the floor is under one another's captions of the same group."""
    rng, everything, result = np.random.default_rng(0), scenes(known), {}
    for kind in KINDS:
        for unseen in (False, True):
            pool = [s for s in everything if s.kind == kind and held(s) is unseen]
            group = [pool[k] for k in rng.permutation(len(pool))[:count]]
            drawn = draw(model, [prompt(s, known) for s in group], **asked)
            shuffled = [group[k] for k in rng.permutation(len(group))]
            result[f"{kind}, held out" if unseen else kind] = {
                "count": len(group), "generated": score(judge, group, drawn),
                "real": score(judge, group, np.stack([compose(s, rgba) for s in group])),
                "floor": score(judge, shuffled, drawn)}  # fmt: skip
    return result
