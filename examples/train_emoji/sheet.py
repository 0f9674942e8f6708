"""The 48-prompt contact sheet and the colour check, through diffrt alone (no PyTorch).

    python sheet.py --steps 20                        # sheet.png
    python sheet.py --steps 4 -o sheet-4-steps.png
    python sheet.py --edits -o edits.png              # image-to-image and inpainting

Every prompt and seed is fixed; nothing is picked by hand. The last ten prompts name a colour: the dominant hue of the
non-white pixels (mode of the saturation-weighted histogram) must fall in the range declared for that word.
"""

from __future__ import annotations

import argparse

import numpy as np
from data import dominant
from PIL import Image, ImageDraw

PROMPTS = [
    "a red apple", "a banana", "a strawberry", "a slice of pizza", "a hamburger", "a birthday cake",
    "an ice cream cone", "a cup of coffee",
    "a cat", "a dog", "an octopus", "a frog", "an elephant", "a penguin", "a butterfly", "a tropical fish",
    "a lion", "a panda", "a rabbit", "a bee", "a sunflower", "a rose", "a tree", "a cactus",
    "a car", "a rocket", "an airplane", "a sailboat", "a train", "a house", "a bicycle", "a castle",
    "a guitar", "a balloon", "an umbrella", "a soccer ball", "a smiling face with sunglasses", "a ghost",
]  # fmt: skip
COLOURED = ["a red car", "an orange balloon", "a yellow umbrella", "a green apple", "a teal teapot", "a blue dog",
            "a purple cat", "a pink heart", "a blue apple", "a green car"]  # fmt: skip
HUES = {"red": (340, 15), "orange": (15, 38), "yellow": (38, 70), "green": (80, 165), "teal": (160, 200), 
        "blue": (200, 250),         "purple": (250, 300), "pink": (300, 345)}  # degrees, from, to  # fmt: skip


STRENGTHS = (0.5, 0.7, 0.8, 0.9)
EDITS = [("a red apple", "a green apple", 0), ("a cat", "a purple cat", 8), ("a red car", "a green car", 38)]
INPAINTS = [("a red apple", "a blue apple", 0, (0.5, 0, 1, 1)), ("a house", "a castle", 29, (0, 0, 1, 0.5))]


def hue_of(picture: np.ndarray) -> float | None:
    """u8 [H,W,3] -> dominant hue in degrees of what is not the white background."""
    foreground = (picture.min(-1) < 235).astype(np.uint8) * 255
    return dominant(np.concatenate([picture, foreground[..., None]], -1))[0]


def matches(prompt: str, picture: np.ndarray) -> bool:
    low, high = HUES[prompt.split()[1]]
    hue = hue_of(picture)
    return hue is not None and (low <= hue <= high if low < high else hue >= low or hue <= high)


def page(images: list[Image.Image], labels: list[str], columns: int = 8, zoom: int = 1) -> Image.Image:
    width, height = images[0].width * zoom + 12, images[0].height * zoom + 22
    out = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    draw = ImageDraw.Draw(out)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        x, y = i % columns * width, i // columns * height
        out.paste(image.resize((image.width * zoom, image.height * zoom), Image.Resampling.BICUBIC), (x + 6, y + 4))
        draw.text(
            (x + width / 2, y + height - 8),
            label.replace("a smiling face with", "a face with"),
            fill="black",
            anchor="mm",
        )
    return out


def edits(pipe) -> tuple[list[Image.Image], list[str]]:
    """A picture and what becomes of it, row by row: image-to-image at four strengths, inpainting under a mask."""
    images, labels = [], []
    for first, then, seed in EDITS:
        start = pipe(first, seed=seed).images[0]
        images.append(start)
        labels.append(first)
        for strength in STRENGTHS:
            images += pipe(then, image=start, strength=strength, seed=seed, num_inference_steps=20).images
            labels.append(f"{then}, {strength}")
    for first, then, seed, box in INPAINTS:
        start = pipe(first, seed=seed).images[0]
        mask = Image.new("L", start.size, 0)
        mask.paste(255, tuple(round(c * start.width) for c in box))
        shown = start.copy()
        shown.paste("silver", mask=mask)
        images += [start, shown]
        labels += [first, "the mask"]
        for k in range(len(STRENGTHS) - 1):
            images += pipe(then, image=start, mask_image=mask, seed=seed + k, num_inference_steps=20).images
            labels.append(f"{then}, seed {seed + k}")
    return images, labels


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("-o", "--output", default="sheet.png")
    args.add_argument("--model", default="emoji")
    args.add_argument("--steps", type=int, help="the model's own if left out")
    args.add_argument("--guidance", type=float, help="the model's own if left out")
    args.add_argument("--edits", action="store_true", help="draw the other sheet: pictures changed")
    options = args.parse_args()

    import diffrt

    prompts = PROMPTS + COLOURED
    pipe = diffrt.load(options.model)
    if options.edits:
        page(*edits(pipe), columns=1 + len(STRENGTHS)).save(options.output)
        return
    images = pipe(
        prompt=prompts,
        seed=list(range(len(prompts))),
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
    ).images
    page(images, prompts).save(options.output)
    good = [matches(p, np.asarray(i.convert("RGB"))) for p, i in zip(COLOURED, images[len(PROMPTS) :], strict=True)]
    for prompt, image, fits in zip(COLOURED, images[len(PROMPTS) :], good, strict=True):
        hue = hue_of(np.asarray(image.convert("RGB")))
        print(f"{prompt}: hue {'none' if hue is None else f'{hue:.0f}'} {'ok' if fits else 'WRONG'}")
    print(f"colour asked for: {sum(good)}/{len(good)}")


if __name__ == "__main__":
    main()
