"""Flux.1 Fill dev (Black Forest Labs 2024): Flux that is told of the picture around a mask, and of every pixel of the
mask.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diffrt.stable_diffusion import scale_factor

from ..spec import Component, Config
from . import flux


def components(configs: Mapping[str, Config]) -> tuple[Component, ...]:
    channels, mask = configs["vae"]["latent_channels"], scale_factor(configs["vae"]) ** 2

    def predict(module: nn.Module, sample: Tensor, *told: Tensor) -> Tensor:
        """It was trained on the picture before the mask, which is not how they come."""
        drawn, covered, seen = sample.split([channels, mask, channels], dim=1)
        return flux.predict(module, torch.cat([drawn, seen, covered], dim=1), *told)

    every = flux.components(configs, beside=mask + channels)
    return tuple(replace(each, call=predict) if each.name == "transformer" else each for each in every)


def defaults(configs: Mapping[str, Config]) -> dict[str, Any]:
    return {**flux.defaults(configs), "num_inference_steps": 50, "guidance_scale": 30.0}


FLUX_FILL = replace(
    flux.FLUX,
    name="flux-fill",
    title="Flux.1 Fill dev",
    all_tasks=("inpaint",),
    tasks=lambda configs: ("inpaint",),
    components=components,
    defaults=defaults,
    forms=("components",),
)
