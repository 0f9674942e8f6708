"""A judge of pictures that has seen real ones only: a small CNN and a bag of words in one space.

    python scorer.py --minutes 5        # of processor time; writes work/scorer.pt, goes on from it

Contrastive (Radford et al. 2021), with every name, style and colour word of the data as the negatives of each other.
The pictures it learns from are moved, scaled, blurred and made noisy, so that it looks at what is drawn and not at how
sharply.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from common import OUT, WORK, save_atomic
from data import COLOURS, STYLES, Picture, load, on_white, paint
from torch import Tensor, nn
from transformers import CLIPTokenizer

SIZE, BATCH, RATE, PAINTED = 64, 128, 2e-3, 3000


class Scorer(nn.Module):
    def __init__(self, tokens: int = 2048, dim: int = 128):
        super().__init__()
        layers: list[nn.Module] = []
        for inside, out, stride in ((3, 32, 2), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2)):
            layers += [nn.Conv2d(inside, out, 3, stride, 1), nn.GroupNorm(8, out), nn.SiLU()]
        self.picture = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256 * 16, dim))
        self.words = nn.EmbeddingBag(tokens, 256, mode="mean")
        self.text = nn.Sequential(nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, dim))
        self.sharpness = nn.Parameter(torch.tensor(math.log(12.0)))

    def see(self, pictures: Tensor) -> Tensor:
        """f32 [B,3,64,64] in [-1,1] -> unit vectors [B,128]."""
        return F.normalize(self.picture(pictures), dim=-1)

    def read(self, captions: list[Tensor]) -> Tensor:
        """Token ids -> unit vectors [len(captions),128]."""
        starts = np.cumsum([0] + [len(c) for c in captions[:-1]]).tolist()
        return F.normalize(self.text(self.words(torch.cat(captions), torch.tensor(starts))), dim=-1)


class Words:
    """Texts -> token ids without start and end."""

    def __init__(self) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(OUT / "tokenizer")

    def __call__(self, texts: list[str]) -> list[Tensor]:
        return [torch.tensor(ids[1:-1]) for ids in self.tokenizer(texts).input_ids]


def concepts(known: list[Picture]) -> list[str]:
    return list(dict.fromkeys(p.name for p in known))


def shrink(pictures: np.ndarray) -> Tensor:
    """u8 [B,H,H,3] -> f32 [B,3,64,64] in [-1,1]."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.avg_pool2d(x, x.shape[-1] // SIZE)


def disturb(x: Tensor) -> Tensor:
    """Moved by up to a tenth, scaled by 0.85..1.15, sometimes blurred, lighter or darker, noisy."""
    count = len(x)
    zoom, move = 1 + 0.15 * (2 * torch.rand(count) - 1), 0.2 * (2 * torch.rand(count, 2) - 1)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = move
    x = F.grid_sample(x - 1, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False) + 1
    blurred = F.avg_pool2d(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), 3, 1, 1, count_include_pad=False)
    x = torch.lerp(x, blurred, torch.rand(count, 1, 1, 1))
    return x * (0.85 + 0.3 * torch.rand(count, 1, 1, 1)) + 0.05 * torch.randn_like(x)


def train(minutes: float) -> Scorer:
    torch.manual_seed(0)
    rng, words = np.random.default_rng(0), Words()
    known, rgba, _ = load()
    place = {name: i for i, name in enumerate(concepts(known))}
    pool = [(i, c) for i, p in enumerate(known) for c in p.variants]
    rows = [(i, None) for i in range(len(known))] + [pool[k] for k in rng.choice(len(pool), PAINTED, replace=False)]
    pictures = shrink(np.stack([on_white(rgba[i] if c is None else paint(rgba[i], c)) for i, c in rows]))
    name = torch.tensor([place[known[i].name] for i, _ in rows])
    style = torch.tensor([STYLES.index(known[i].style) for i, _ in rows])
    colour = torch.tensor([list(COLOURS).index(w) if (w := c or known[i].colour) else -1 for i, c in rows])
    texts = words([*place, *STYLES, *COLOURS])
    ends = (len(place), len(place) + len(STYLES))
    model = trained().train() if (WORK / "scorer.pt").exists() else Scorer()
    adam = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
    started, step, total = time.process_time(), 0, 0.0
    while (done := (time.process_time() - started) / 60 / minutes) < 1:
        adam.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done))
        k = torch.from_numpy(rng.integers(len(rows), size=BATCH))
        logits = model.sharpness.exp() * model.see(disturb(pictures[k])) @ model.read(texts).T
        by_name, by_style, by_colour = logits[:, : ends[0]], logits[:, ends[0] : ends[1]], logits[:, ends[1] :]
        loss = (F.cross_entropy(by_name, name[k]) + F.cross_entropy(by_style, style[k])
                + 0.5 * F.cross_entropy(by_colour, colour[k], ignore_index=-1))  # fmt: skip
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        step, total = step + 1, total + loss.item()
        if step % 50 == 0:
            print(step, f"{(time.process_time() - started) / 60:.2f} minutes, loss {total / 50:.3f}", flush=True)
            total = 0.0
    save_atomic({"model": model.state_dict()}, WORK / "scorer.pt")
    return model


def trained() -> Scorer:
    model = Scorer()
    model.load_state_dict(torch.load(WORK / "scorer.pt")["model"])
    return model.eval()


if __name__ == "__main__":
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--minutes", type=float, default=5)
    train(args.parse_args().minutes)
