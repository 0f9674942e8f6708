"""Stable Diffusion 1.x and 2.x: CLIP text encoder, UNet2DConditionModel, AutoencoderKL."""

from collections.abc import Mapping

from torch import Tensor, nn

from diffrt.manifest import TensorSpec
from diffrt.stable_diffusion import CONDITIONS, defaults, latents, tasks

from ..spec import Component, Config, Family
from . import safety
from .latent import autoencoder, build_text_encoder, positions, text_encoder, unet
from .safety import safety_checker


def encode_text(module: nn.Module, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    out = module(input_ids=input_ids, position_ids=positions(input_ids))
    return out.last_hidden_state.float(), out.pooler_output.float()


def components(configs: Mapping[str, Config], beside: Mapping[int, str] | None = None) -> tuple[Component, ...]:
    """``beside``: as of the UNet."""
    text, vae = configs["text_encoder"], configs["vae"]
    hidden = text["hidden_size"]
    said = (
        TensorSpec("last_hidden_state", "float32", ("batch", "sequence", hidden)),
        TensorSpec("pooler_output", "float32", ("batch", hidden)),
    )
    return (
        text_encoder(text, build_text_encoder, encode_text, said),
        unet(configs["unet"], hidden, vae["latent_channels"], beside=beside),
        *autoencoder(vae),
        *((safety_checker(configs["safety_checker"]),) if "safety_checker" in configs else ()),
    )


STABLE_DIFFUSION = Family(
    name="stable-diffusion",
    title="Stable Diffusion 1.x, 2.x, inpainting; LCM",
    tested="pictures and components against diffusers 0.42.1, at full size with random weights",
    all_tasks=("text_to_image", "image_to_image", "inpaint"),
    forms=("components", "step", "single", "stablehlo"),
    tasks=tasks,
    parts={
        "text_encoder": ("CLIPTextModel",),
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        **safety.PARTS,
    },
    optional=tuple(safety.PARTS),
    requested=safety.REQUESTED,
    settings=safety.SETTINGS,
    skipped=("safety_checker", "feature_extractor", "image_encoder"),
    components=components,
    defaults=defaults,
    latents=latents,
    conditions=CONDITIONS,
    layouts=("diffrt", "optimum"),
    tokenizers={"text_encoder": "tokenizer"},
)
