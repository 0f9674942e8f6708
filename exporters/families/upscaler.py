"""The x4 upscaler: Stable Diffusion 2 whose UNet is told of a small picture in three more channels, a pixel for each
latent, and of how noisy that is as one of its classes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diffrt.errors import CheckpointError
from diffrt.request import MOST_NOISE
from diffrt.stable_diffusion import LOW_RES, defaults

from ..spec import Component, Config
from . import safety, stable_diffusion

COLOURS = 3


def components(configs: Mapping[str, Config]) -> tuple[Component, ...]:
    if (configs["unet"].get("num_class_embeds") or 0) <= MOST_NOISE:
        raise CheckpointError(f"the UNet of an upscaler is told of {MOST_NOISE} levels of noise by num_class_embeds")
    text, unet, *others = stable_diffusion.components(configs, {COLOURS: "a small picture"})
    names = {"class_labels": "noise_level"}
    inputs = tuple(replace(spec, name=names.get(spec.name, spec.name)) for spec in unet.inputs)
    return (text, replace(unet, inputs=inputs), *others)


def own_defaults(configs: Mapping[str, Config]) -> dict[str, Any]:
    return {**defaults(configs), "num_inference_steps": 75, "guidance_scale": 9.0}


UPSCALER = replace(
    stable_diffusion.STABLE_DIFFUSION,
    name="stable-diffusion-upscaler",
    title="Stable Diffusion's x4 upscaler",
    tested="pictures and components against diffusers 0.42.1",
    all_tasks=("upscale",),
    tasks=lambda configs: ("upscale",),
    components=components,
    defaults=own_defaults,
    settings={"unet": LOW_RES, **safety.SETTINGS},
    skipped=("safety_checker", "feature_extractor", "watermarker"),
    forms=("components",),
    layouts=("diffrt",),
)
