"""InstructPix2Pix (Brooks et al. 2022, arXiv:2211.09800): Stable Diffusion whose UNet is told of a picture in as many
more channels as latents have, and draws what an instruction makes of it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diffrt.errors import CheckpointError
from diffrt.stable_diffusion import defaults

from ..spec import Component, Config
from . import stable_diffusion


def components(configs: Mapping[str, Config]) -> tuple[Component, ...]:
    vae = configs["vae"]
    channels, scale = vae["latent_channels"], vae["scaling_factor"]
    if vae.get("shift_factor"):
        raise CheckpointError("the autoencoder has a shift_factor; that of InstructPix2Pix has none")
    text, unet, *autoencoder = stable_diffusion.components(configs, {channels: "a picture's latents"})

    def predict(module: nn.Module, sample: Tensor, *rest: Tensor) -> Tensor:
        """It was trained on a picture's latents as the autoencoder learned them, which is not how they come."""
        drawn, seen = sample.split(channels, dim=1)
        out: Tensor = unet.call(module, torch.cat([drawn, seen / scale], dim=1), *rest)
        return out

    return (text, replace(unet, call=predict), *autoencoder)


def own_defaults(configs: Mapping[str, Config]) -> dict[str, Any]:
    return {**defaults(configs), "num_inference_steps": 100}


INSTRUCT_PIX2PIX = replace(
    stable_diffusion.STABLE_DIFFUSION,
    name="instruct-pix2pix",
    title="InstructPix2Pix",
    tested="pictures and components against diffusers 0.42.1",
    all_tasks=("edit",),
    tasks=lambda configs: ("edit",),
    components=components,
    defaults=own_defaults,
    forms=("components",),
    layouts=("diffrt",),
)
