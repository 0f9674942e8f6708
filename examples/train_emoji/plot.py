"""Loss curves of the trainings, from work/*.csv, drawn with Pillow: python plot.py [OUT.png]"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

WORK = Path(__file__).parent / "work"


def curve(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], x: np.ndarray, y: np.ndarray, title: str) -> None:
    """A log-scaled line in the box (left, top, right, bottom), its end values written on it."""
    left, top, right, bottom = box
    draw.rectangle(box, outline="gray")
    ly = np.log(y)
    px = left + (x - x.min()) / np.ptp(x) * (right - left)
    py = bottom - (ly - ly.min()) / max(np.ptp(ly), 1e-9) * (bottom - top - 20)
    draw.line([*zip(px.tolist(), py.tolist(), strict=True)], fill="navy", width=2)
    draw.text((left + 8, top + 4), f"{title}: {y[0]:.4g} -> {y[-1]:.4g} over {x[-1]:.0f} minutes", fill="black")


def main() -> None:
    names = [name for name in ("vae", "grow", "unet") if (WORK / f"{name}.csv").exists()]
    image = Image.new("RGB", (900, 20 + 270 * len(names)), "white")
    draw = ImageDraw.Draw(image)
    for k, name in enumerate(names):
        with (WORK / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        x, y = np.array([float(r["minutes"]) for r in rows]), np.array([float(r["loss"]) for r in rows])
        curve(draw, (20, 20 + 270 * k, 880, 270 + 270 * k), x, y, f"{name} loss (log scale)")
    image.save(sys.argv[1] if len(sys.argv) > 1 else WORK / "loss.png")


if __name__ == "__main__":
    main()
