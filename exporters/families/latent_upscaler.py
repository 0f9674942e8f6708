"""The x2 latent upscaler (Crowson 2022): a network over latents that is told of smaller ones beside them, of sigma and
of the whole prompt.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffrt.errors import CheckpointError
from diffrt.manifest import TensorSpec
from diffrt.stable_diffusion import defaults, latents

from ..models.k_unet import KUNet
from ..spec import Component, Config, Family
from .latent import autoencoder, build_text_encoder, positions, text_encoder

LEVEL = 64  # ones, and as many zeros, say that the smaller latents are without noise
CONDITIONS = {
    "encoder_hidden_states": ("text_encoder.hidden_states",),
    "text_embeds": ("text_encoder.pooler_output",),
}


def encode_text(module: nn.Module, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    out = module(input_ids=input_ids, position_ids=positions(input_ids), output_hidden_states=True)
    return out.hidden_states[-1].float(), out.pooler_output.float()


def denoise(module: KUNet, sample: Tensor, sigma: Tensor, words: Tensor, pooled: Tensor) -> Tensor:
    """The picture in x0 + sigma eps (Karras et al. 2022, arXiv:2206.00364, table 1, of data whose deviation is 1). The
    last channel that the network gives is of a variance that nothing reads."""
    dtype = next(module.parameters()).dtype
    x, smaller = sample.chunk(2, dim=1)
    level = sigma.reshape(-1, 1, 1, 1)
    c_in = (level**2 + 1).rsqrt()
    batch = pooled.shape[0]
    noise = pooled.new_ones(batch, LEVEL), pooled.new_zeros(batch, LEVEL)
    told = torch.cat([*noise, pooled], dim=1)
    seen = torch.cat([x * c_in, smaller], dim=1)
    out = module(seen.to(dtype), torch.log(sigma) / 4, words.to(dtype), told.to(dtype)).float()
    return c_in**2 * x + level * c_in * out[:, :-1]


def components(configs: Mapping[str, Config]) -> tuple[Component, ...]:
    text, unet, vae = configs["text_encoder"], configs["unet"], configs["vae"]
    hidden, channels = text["hidden_size"], vae["latent_channels"]
    keys = ("in_channels", "out_channels", "cross_attention_dim", "time_cond_proj_dim")
    taken, needed = tuple(unet[key] for key in keys), (2 * channels, channels + 1, hidden, 2 * LEVEL + hidden)
    if taken != needed:
        raise CheckpointError(
            f"the UNet has {', '.join(map('{} = {}'.format, keys, taken))}; with this autoencoder and text encoder it "
            f"must have {', '.join(map(str, needed))}"
        )
    said = (
        TensorSpec("hidden_states", "float32", ("batch", "sequence", hidden)),
        TensorSpec("pooler_output", "float32", ("batch", hidden)),
    )
    denoiser = Component(
        name="unet",
        part="unet",
        build=KUNet,
        call=denoise,
        inputs=(
            TensorSpec("sample", "float32", ("batch", 2 * channels, "h", "w")),
            TensorSpec("sigma", "float32", ("batch",)),
            TensorSpec("encoder_hidden_states", "float32", ("batch", "sequence", hidden)),
            TensorSpec("text_embeds", "float32", ("batch", hidden)),
        ),
        outputs=(TensorSpec("denoised", "float32", ("batch", channels, "h", "w")),),
        axes={"batch": 2, "h": 18, "w": 22, "sequence": 77},
    )
    return (text_encoder(text, build_text_encoder, encode_text, said), denoiser, *autoencoder(vae))


def own_defaults(configs: Mapping[str, Config]) -> dict[str, Any]:
    return {**defaults(configs), "num_inference_steps": 75, "guidance_scale": 9.0}


LATENT_UPSCALER = Family(
    name="latent-upscaler",
    title="The x2 latent upscaler",
    tested="pictures and components against diffusers 0.42.1",
    all_tasks=("latent_upscale",),
    tasks=lambda configs: ("latent_upscale",),
    parts={"text_encoder": ("CLIPTextModel",), "unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL",)},
    components=components,
    defaults=own_defaults,
    latents=latents,
    conditions=CONDITIONS,
    tokenizers={"text_encoder": "tokenizer"},
    forms=("components",),
)
