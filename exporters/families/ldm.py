"""Unconditional latent diffusion (Rombach et al. 2022, arXiv:2112.10752): a UNet2DModel over the latents of a VQModel
(LDMPipeline).
"""

from collections.abc import Mapping
from typing import Any

from diffrt.stable_diffusion import scale_factor

from ..models.vq import VQModel
from ..spec import Component, Config, Family
from .latent import autoencoder, channels_of
from .unconditional import denoiser, size


def components(configs: Mapping[str, Config]) -> tuple[Component, ...]:
    unet, vq = configs["unet"], configs["vqvae"]
    return (denoiser(unet, channels_of(vq)), *autoencoder(vq, "vqvae", VQModel))


def defaults(configs: Mapping[str, Config]) -> dict[str, Any]:
    height, width = (side * scale_factor(configs["vqvae"]) for side in size(configs["unet"]))
    return {"height": height, "width": width, "num_inference_steps": 50, "guidance_scale": 1.0}


def latents(configs: Mapping[str, Config]) -> dict[str, Any]:
    vq = configs["vqvae"]
    return {"channels": channels_of(vq), "scale_factor": scale_factor(vq)}


LDM = Family(
    name="ldm",
    title="Unconditional latent diffusion, of a VQ autoencoder",
    tested="pictures and components against diffusers 0.42.1",
    all_tasks=("unconditional",),
    tasks=lambda configs: ("unconditional",),
    parts={"unet": ("UNet2DModel",), "vqvae": ("VQModel",)},
    skipped=(),
    components=components,
    defaults=defaults,
    latents=latents,
)
