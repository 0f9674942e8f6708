"""Text to image: the whole story on a page."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from diffrt import image, noise
from diffrt.components.denoiser import Denoiser
from diffrt.components.text_encoder import TextEncoder
from diffrt.components.vae import Decoder
from diffrt.denoise import Colours, Step, denoise
from diffrt.guidance import guide
from diffrt.request import F32, Request
from diffrt.schedulers import Scheduler


@dataclass(frozen=True, eq=False)
class Output:
    """B pictures and all that can be passed into another call."""

    images: list[Image] | NDArray[np.float32]  # [B] PIL; [B,H,W,3] f32 in [0,1]; or the latents [B,C,h,w] f32
    latents: F32  # [B,C,h,w] as they were decoded
    prompt_embeds: F32  # [P,S,D]
    negative_prompt_embeds: F32 | None  # [P,S,D]; None without guidance
    seeds: list[int]  # [B]
    parameters: list[dict[str, Any]]  # [B] what made each picture, as JSON values
    truncated: list[str]  # per prompt and negative prompt that was too long, the end that was cut off


def text_to_image(
    request: Request,
    scheduler: Scheduler,
    text_encoder: TextEncoder,
    denoiser: Denoiser,
    decoder: Decoder,
    colours: Colours | None,
    model: str,
) -> Generator[Step, None, Output]:
    """Yield every step, return the output. `model` is the name written into the parameters."""
    table = scheduler.table(request.num_inference_steps, eta=request.eta)

    truncated: list[str] = []
    embeds, negative = request.prompt_embeds, request.negative_prompt_embeds
    if embeds is None:
        embeds, cut = text_encoder(request.prompts or ())
        truncated += filter(None, cut)
    if not request.guided:
        negative = None
    elif negative is None:
        negative, cut = text_encoder(request.negative_prompts)
        truncated += filter(None, cut)

    streams = noise.generators(request.seeds, request.rng)
    x = request.latents
    if x is None:
        x = noise.randn(streams, request.latent_shape)

    count = request.num_images_per_prompt  # a prompt's pictures lie side by side: [P,S,D] -> [B,S,D]
    without = None if negative is None else negative.repeat(count, axis=0)
    guided = guide(denoiser, embeds.repeat(count, axis=0), without, request.guidance_scale)
    for step in denoise(table, guided, x, lambda: noise.randn(streams, request.latent_shape), colours):
        yield step

    images: Any = step.latents
    if request.output_type != "latent":
        decoded = decoder(step.latents)
        images = image.to_pil(image.to_uint8(decoded)) if request.output_type == "pil" else _unit(decoded)
    return Output(
        images=images,
        latents=step.latents,
        prompt_embeds=embeds,
        negative_prompt_embeds=negative,
        seeds=list(request.seeds),
        parameters=request.parameters(type(scheduler).__name__, model),
        truncated=truncated,
    )


def _unit(decoded: F32) -> F32:
    """[B,3,H,W] in [-1,1] -> [B,H,W,3] in [0,1]."""
    return np.clip(decoded * np.float32(0.5) + np.float32(0.5), 0, 1).transpose(0, 2, 3, 1)
