"""Measure a model: the autoencoder, what its pictures show as the judge of scorer.py sees it, and copying.

    python scorer.py --minutes 5 && python measure.py [--model ../../diffrt/bundles/emoji] [--count 48]

Writes work/measure.json and prints it as the card's table. Every prompt and seed follows from --count. For each group
the judge ranks all names (top-1, top-10), chooses between the styles and among the colour words; *real* is the data's
own pictures of the same captions, *floor* the generated pictures under one another's captions, shuffled over all
groups.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import WORK
from data import COLOURS, EVERYDAY_NAMES, STYLES, Picture, article, held_flat, held_out, load, on_white, paint
from judge import Case, Judge, draw
from measure_scenes import measure_scenes
from safetensors.torch import load_file
from torch import Tensor
from train_vae import psnr

from exporters.models.vae import AutoencoderKL

BUNDLE = Path(__file__).parents[2] / "diffrt/bundles/emoji"


def prompt(picture: Picture, colour: str | None) -> str:
    noun = picture.name if colour is None else f"{colour} {picture.base}"
    return f"a flat {noun}" if picture.style == "flat" else article(noun)


def cases(known: list[Picture], count: int) -> dict[str, list[Case]]:
    """`count` rows of each group, spread evenly over what there is."""
    flat, held = np.array([p.style == "flat" for p in known]), held_flat(known)
    everyday = np.array([p.name in EVERYDAY_NAMES for p in known])
    paintable = np.array([len(p.variants) > 0 for p in known])
    plain = {p.name for p in known if p.variants}
    flat_paintable = np.array([p.style == "flat" and p.name in plain for p in known])

    def spread(which: np.ndarray) -> list[int]:
        rows = np.flatnonzero(which)
        return [int(rows[k]) for k in np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]

    def coloured(rows: list[int]) -> list[Case]:
        return [(i, list(COLOURS)[k % len(COLOURS)]) for k, i in enumerate(rows)]

    return {
        "3d, everyday": [(i, None) for i in spread(~flat & everyday)],
        "3d, the rest": [(i, None) for i in spread(~flat & ~everyday)],
        "3d, painted, everyday": coloured(spread(~flat & everyday & paintable)),
        "flat, everyday": [(i, None) for i in spread(flat & everyday & ~held)],
        "flat, everyday, held out": [(i, None) for i in spread(held & everyday)],
        "flat, the rest, held out": [(i, None) for i in spread(held & ~everyday)],
        "flat, painted, everyday, all held out": coloured(spread(flat_paintable & everyday)),
    }


def real(known: list[Picture], rgba: np.ndarray, rows: list[Case]) -> np.ndarray:
    return np.stack([on_white(rgba[i] if c is None else paint(rgba[i], c)) for i, c in rows])


def nearest(pictures: np.ndarray, rgba: np.ndarray) -> Tensor:
    """PSNR in dB at 32x32 of each picture to the most similar one of the data, as drawn there."""

    def small(batch: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).float() / 255
        return F.adaptive_avg_pool2d(x, 32).flatten(1)

    data = torch.cat([small(on_white(part)) for part in np.array_split(rgba, 32)])
    return -20 * torch.log10(torch.cdist(small(pictures), data).min(1).values / 3072**0.5)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--model", default=str(BUNDLE))
    args.add_argument("--count", type=int, default=48, help="pictures of each group")
    args.add_argument("--steps", type=int)
    args.add_argument("--guidance", type=float)
    args.add_argument("-o", "--output", default=str(WORK / "measure.json"))
    options = args.parse_args()
    asked = {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
    asked = {k: v for k, v in asked.items() if v}
    known, rgba, _ = load()
    vae = AutoencoderKL(json.loads((Path(options.model) / "vae/config.json").read_text())).eval()
    weights = load_file(Path(options.model) / "vae/diffusion_pytorch_model.fp16.safetensors")
    vae.load_state_dict({k: v.float() for k, v in weights.items()})
    held = held_out(known)
    styles = {s: held & np.array([p.style == s for p in known]) for s in STYLES}
    result: dict = {"autoencoder_psnr_db": {s: round(psnr(vae, on_white(rgba[m])), 2) for s, m in styles.items()}}
    judge, groups, started = Judge(known), cases(known, options.count), time.time()
    rows = [row for group in groups.values() for row in group]
    pictures = draw(options.model, [prompt(known[i], c) for i, c in rows], **asked)
    result |= {"pictures": len(rows), "seconds_each": round((time.time() - started) / len(rows), 2), "groups": {}}
    start, rng, shuffled = 0, np.random.default_rng(0), list(rows)
    for painted in (False, True):  # among themselves, so that every row keeps a colour to be judged by
        places = [k for k, (_, c) in enumerate(rows) if (c is not None) is painted]
        for k, other in zip(places, rng.permutation(places), strict=True):
            shuffled[k] = rows[other]
    for title, group in groups.items():
        drawn = pictures[start : start + len(group)]
        result["groups"][title] = {"count": len(group), "generated": judge.score(drawn, group),
                                   "real": judge.score(real(known, rgba, group), group),
                                   "floor": judge.score(drawn, shuffled[start : start + len(group)])}  # fmt: skip
        start += len(group)
    result["groups"] |= measure_scenes(judge, known, rgba, options.model, options.count, asked)
    close = nearest(pictures[[c is None for _, c in rows]], rgba)
    result["nearest_training_picture_psnr_db"] = {
        f"{q}%": round(float(close.quantile(q / 100)), 1) for q in (10, 50, 90, 100)
    }
    Path(options.output).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "groups"}))
    print("| group | pictures | top-1 | top-10 | style | colour | ground |\n|---|---|---|---|---|---|---|")
    for title, group in result["groups"].items():
        cells = [
            " / ".join(f"{group[who][key]:.0%}" for who in ("generated", "real", "floor"))
            if key in group["real"]
            else "-"
            for key in ("top1", "top10", "style", "colour", "ground")
        ]
        print(f"| {title} | {group['count']} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
