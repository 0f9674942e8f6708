"""Score SDEs whose variance explodes (Song et al. 2020, arXiv:2011.13456), over pixels from 0 to 1: NCSN++, told the
noise level for a time (ScoreSdeVePipeline).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..models.ncsn import NCSNpp
from ..spec import Component, Config, Family
from .unconditional import denoiser, size


def components(configs: Mapping[str, Config]) -> tuple[Component, ...]:
    unet = configs["unet"]
    smallest = 2 ** (len(unet["block_out_channels"]) - 1)  # 2x3 in the middle: a size of 1 would be baked in
    axes = {"batch": 2, "h": 2 * smallest + 1, "w": 3 * smallest + 1}
    return (replace(denoiser(unet, unet["in_channels"]), build=NCSNpp, axes=axes),)


def defaults(configs: Mapping[str, Config]) -> dict[str, Any]:
    height, width = size(configs["unet"])
    return {"height": height, "width": width, "num_inference_steps": 2000, "guidance_scale": 1.0}


SCORE_SDE = Family(
    name="score-sde",
    title="Score SDE of exploding variance: NCSN++",
    tested="pictures and components against diffusers 0.42.1",
    all_tasks=("unconditional",),
    forms=("components",),  # corrections are steps of their own
    tasks=lambda configs: ("unconditional",),
    parts={"unet": ("UNet2DModel",)},
    skipped=(),
    components=components,
    defaults=defaults,
    latents=lambda configs: {"channels": configs["unet"]["in_channels"], "scale_factor": 1, "low": 0},
)
