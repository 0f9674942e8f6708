"""A contact sheet straight from the torch modules: to look at while training.

    python sample.py [-o sheet.png] [--steps 20] [--guidance 4] [PROMPT ...]

The sampler is the checkpoint's own scheduler of diffrt, stepped by hand.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from common import OUT
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor
from train_unet import SCHEDULER, Model, read
from transformers import CLIPTokenizer

from diffrt.schedulers import from_config
from exporters.models.vae import AutoencoderKL

PROMPTS = ["a red apple", "a car", "a cat", "a dog", "a red heart", "a sunflower", "a slice of pizza", "an octopus",
           "a guitar", "a rocket", "a house", "a frog", "a banana", "a rose", "an airplane", "a balloon",
           "a flat emoji of a cat", "a flat red apple", "a flat rocket", "a flat guitar",
           "a blue apple", "a green car", "a purple cat", "a smiling face with sunglasses"]  # fmt: skip


@torch.no_grad()
def generate(prompts: list[str], steps: int, guidance: float, seed: int = 0) -> Tensor:
    """-> u8 [B,H,W,3], with classifier-free guidance (Ho & Salimans 2022)."""
    model = Model().eval()
    read(model)
    vae = AutoencoderKL(json.loads((OUT / "vae/config.json").read_text())).eval()
    vae.load_state_dict(load_file(OUT / "vae/diffusion_pytorch_model.safetensors"))
    tokenizer = CLIPTokenizer.from_pretrained(OUT / "tokenizer")
    ids = tokenizer(
        [""] * len(prompts) + prompts, padding="max_length", truncation=True, max_length=32, return_tensors="pt"
    ).input_ids
    context = model.text(ids).last_hidden_state
    x = torch.stack(
        [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed + i)) for i in range(len(prompts))]
    ).numpy()
    stepper = from_config(SCHEDULER).stepper(steps)
    for t in stepper.timesteps:
        sample = torch.from_numpy(stepper.scale_model_input(x, t))
        times = torch.full((2 * len(x),), float(t))
        plain, asked = model.unet(torch.cat([sample, sample]), times, context).chunk(2)
        x = stepper.step((plain + guidance * (asked - plain)).numpy(), t, x).prev_sample
    return ((vae.decode(torch.from_numpy(x)).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)


def sheet(images: np.ndarray, labels: list[str], columns: int = 8, zoom: int = 1) -> Image.Image:
    """u8 [B,H,H,3] and a line of text under each."""
    size = images.shape[1] * zoom
    cell, rows = size + 8, -(-len(labels) // columns)
    page = Image.new("RGB", (columns * cell, rows * (cell + 14)), "white")
    draw = ImageDraw.Draw(page)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        x, y = i % columns * cell, i // columns * (cell + 14)
        page.paste(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC), (x + 4, y + 4))
        draw.text((x + 6, y + cell), label[:24], fill="black")
    return page


if __name__ == "__main__":
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("prompts", nargs="*", default=PROMPTS)
    args.add_argument("-o", "--output", default="sheet.png")
    args.add_argument("--steps", type=int, default=12)
    args.add_argument("--guidance", type=float, default=4.0)
    args.add_argument("--seed", type=int, default=0)
    a = args.parse_args()
    prompts = list(a.prompts) or PROMPTS
    sheet(generate(prompts, a.steps, a.guidance, a.seed).numpy(), prompts).save(a.output)
