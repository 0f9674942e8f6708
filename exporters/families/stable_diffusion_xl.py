"""Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952): two CLIP text encoders, whose last layer but one is read,
and a UNet that is also told of the whole prompt, of sizes and of crops. The refiner has the second one alone, and is
told of an aesthetic score.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diffrt.errors import CheckpointError
from diffrt.manifest import TensorSpec
from diffrt.stable_diffusion import defaults, latents, tasks

from ..spec import Component, Config, Family
from .latent import autoencoder, build_text_encoder, clip_config, positions, text_encoder, unet

CONDITIONS = {
    "encoder_hidden_states": ("text_encoder.hidden_states", "text_encoder_2.hidden_states"),
    "text_embeds": ("text_encoder_2.text_embeds",),
}


def build_text_encoder_2(config: Config) -> nn.Module:
    from transformers import CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(clip_config(config))


def encode_tokens(module: nn.Module, input_ids: Tensor) -> Tensor:
    out = module(input_ids=input_ids, position_ids=positions(input_ids), output_hidden_states=True)
    return out.hidden_states[-2].float()


def encode_text(module: nn.Module, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    out = module(input_ids=input_ids, position_ids=positions(input_ids), output_hidden_states=True)
    return out.hidden_states[-2].float(), out.text_embeds.float()


def components(configs: Mapping[str, Config]) -> tuple[Component, ...]:
    first, second, network = configs.get("text_encoder"), configs["text_encoder_2"], configs["unet"]
    if network.get("addition_embed_type") != "text_time":
        raise CheckpointError("the UNet of Stable Diffusion XL has addition_embed_type 'text_time'; this one has not")

    def tokens(config: Config) -> TensorSpec:
        return TensorSpec("hidden_states", "float32", ("batch", "sequence", config["hidden_size"]))

    pooled = second["projection_dim"]
    numbers = (network["projection_class_embeddings_input_dim"] - pooled) // network["addition_time_embed_dim"]
    encoders = [
        text_encoder(
            second,
            build_text_encoder_2,
            encode_text,
            (tokens(second), TensorSpec("text_embeds", "float32", ("batch", pooled))),
            "text_encoder_2",
        )
    ]
    if first is not None:
        encoders.insert(0, text_encoder(first, build_text_encoder, encode_tokens, (tokens(first),)))
    extra = (
        TensorSpec("text_embeds", "float32", ("batch", pooled)),
        TensorSpec("time_ids", "float32", ("batch", numbers)),
    )
    width = sum(config["hidden_size"] for config in (first, second) if config is not None)
    vae = configs["vae"]
    return (*encoders, unet(network, width, vae["latent_channels"], extra), *autoencoder(vae))


def own_defaults(configs: Mapping[str, Config]) -> dict[str, Any]:
    return {**defaults(configs), "guidance_scale": 5.0}


STABLE_DIFFUSION_XL = Family(
    name="stable-diffusion-xl",
    title="Stable Diffusion XL, refiner, Turbo",
    tested="pictures against diffusers 0.42.1, hand-over included",
    all_tasks=("text_to_image", "image_to_image", "inpaint"),
    tasks=tasks,
    parts={
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
    },
    optional=("text_encoder",),
    skipped=("feature_extractor", "image_encoder"),
    components=components,
    defaults=own_defaults,
    latents=latents,
    conditions=CONDITIONS,
    layouts=("diffrt", "optimum"),
    tokenizers={"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
    zero_negative=True,
)
