"""What the judge of scorer.py says of drawn pictures."""

from __future__ import annotations

import numpy as np
import torch
from data import COLOURS, STYLES, Picture
from scorer import Words, concepts, shrink, trained
from torch import Tensor

Case = tuple[int, str | None]  # row of the data and the colour it is painted in


def draw(model: str, prompts: list[str], **options: float) -> np.ndarray:
    """-> u8 [B,H,W,3] through diffrt, the seed of each its place."""
    import diffrt

    pipe = diffrt.load(model)
    pictures = []
    for k in range(0, len(prompts), 16):
        batch = prompts[k : k + 16]
        out = pipe(prompt=batch, seed=list(range(k, k + len(batch))), **options)
        pictures += [np.asarray(image.convert("RGB")) for image in out.images]
    return np.stack(pictures)


class Judge:
    def __init__(self, known: list[Picture]):
        self.known, self.scorer = known, trained()
        names, words = concepts(known), Words()
        self.place = {name: i for i, name in enumerate(names)}
        with torch.no_grad():
            self.texts = self.scorer.read(words([*names, *STYLES, *COLOURS]))
        self.sizes = [len(names), len(STYLES), len(COLOURS)]

    @torch.no_grad()
    def look(self, pictures: np.ndarray, rows: list[Case]) -> dict[str, Tensor]:
        """bool [B] each: what the judge finds in the pictures u8 [B,H,W,3] of that which the captions of `rows` say."""
        logits = torch.cat([self.scorer.see(shrink(part)) for part in np.array_split(pictures, 8)]) @ self.texts.T
        by_name, by_style, by_colour = logits.split(self.sizes, 1)
        name = torch.tensor([self.place[self.known[i].name] for i, _ in rows])
        style = torch.tensor([STYLES.index(self.known[i].style) for i, _ in rows])
        rank = (by_name > by_name.gather(1, name[:, None])).sum(1)
        found = {"top1": rank < 1, "top10": rank < 10, "style": by_style.argmax(1) == style}
        if all(c for _, c in rows):
            colour = torch.tensor([list(COLOURS).index(c) for _, c in rows if c])
            found["colour"] = by_colour.argmax(1) == colour
        return found

    def score(self, pictures: np.ndarray, rows: list[Case]) -> dict[str, float]:
        """The shares of the pictures in which that is so."""
        return {k: round(float(v.float().mean()), 3) for k, v in self.look(pictures, rows).items()}
