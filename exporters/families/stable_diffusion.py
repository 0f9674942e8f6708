"""Stable Diffusion 1.x and 2.x: CLIP text encoder, UNet2DConditionModel, AutoencoderKL."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diffrt.errors import CheckpointError
from diffrt.manifest import TensorSpec
from diffrt.stable_diffusion import CONDITIONS, defaults, latents, scale_factor, tasks

from ..models.unet import UNet2DConditionModel
from ..models.vae import AutoencoderKL
from ..spec import TOLERANCE, Component, Config, Family


def build_text_encoder(config: Config) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    known = {k: v for k, v in config.items() if k not in ("torch_dtype", "dtype", "transformers_version")}
    clip = CLIPTextConfig(**known)
    clip._attn_implementation = "sdpa"
    return CLIPTextModel(clip)


def encode_text(module: nn.Module, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    positions = torch.arange(input_ids.shape[1]).unsqueeze(0)  # the module's own buffer is not in every checkpoint
    out = module(input_ids=input_ids, position_ids=positions)
    return out.last_hidden_state.float(), out.pooler_output.float()


def predict(module: nn.Module, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
    dtype = next(module.parameters()).dtype
    return module(sample.to(dtype), timestep, encoder_hidden_states.to(dtype)).float()


def encode_picture(module: AutoencoderKL, sample: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = module.encode(sample.to(next(module.parameters()).dtype))
    return mean.float(), std.float()


def decode_latents(module: AutoencoderKL, latent_sample: Tensor) -> Tensor:
    return module.decode(latent_sample.to(next(module.parameters()).dtype)).float()


def components(configs: Mapping[str, Config]) -> tuple[Component, ...]:
    text, unet, vae = configs["text_encoder"], configs["unet"], configs["vae"]
    hidden, width = text["hidden_size"], unet["cross_attention_dim"]
    if hidden != width:
        raise CheckpointError(
            f"the text encoder gives {hidden} channels and the UNet's cross_attention_dim is {width}: "
            f"unet/ and text_encoder/ belong to different models"
        )
    channels, longest = vae["latent_channels"], text["max_position_embeddings"]
    if unet["in_channels"] not in (channels, 2 * channels + 1) or unet["out_channels"] != channels:
        raise CheckpointError(
            f"the UNet takes {unet['in_channels']} and gives {unet['out_channels']} channels, the autoencoder's "
            f"latents have {channels}: it must give as many, and take as many or, for inpainting, {2 * channels + 1}"
        )
    return (
        Component(
            name="text_encoder",
            part="text_encoder",
            graph="model",
            build=build_text_encoder,
            call=encode_text,
            inputs=(TensorSpec("input_ids", "int64", ("batch", "sequence")),),
            outputs=(
                TensorSpec("last_hidden_state", "float32", ("batch", "sequence", hidden)),
                TensorSpec("pooler_output", "float32", ("batch", hidden)),
            ),
            axes={"batch": 2, "sequence": min(77, longest)},
            tolerance=TOLERANCE,
            high=text["vocab_size"],
        ),
        Component(
            name="unet",
            part="unet",
            graph="model",
            build=UNet2DConditionModel,
            call=predict,
            inputs=(
                TensorSpec("sample", "float32", ("batch", unet["in_channels"], "h", "w")),
                TensorSpec("timestep", "float32", ("batch",)),
                TensorSpec("encoder_hidden_states", "float32", ("batch", "sequence", hidden)),
            ),
            outputs=(TensorSpec("out_sample", "float32", ("batch", channels, "h", "w")),),
            axes={"batch": 2, "h": 9, "w": 11, "sequence": 77},
            tolerance=TOLERANCE,
        ),
        Component(
            name="vae_encoder",
            part="vae",
            graph="encoder",
            build=AutoencoderKL,
            call=encode_picture,
            inputs=(TensorSpec("sample", "float32", ("batch", 3, "height", "width")),),
            outputs=tuple(TensorSpec(n, "float32", ("batch", channels, "h", "w")) for n in ("mean", "std")),
            axes={"batch": 2, "height": 9 * scale_factor(vae), "width": 11 * scale_factor(vae)},
            tolerance=TOLERANCE,
            tiled=True,
        ),
        Component(
            name="vae_decoder",
            part="vae",
            graph="decoder",
            build=AutoencoderKL,
            call=decode_latents,
            inputs=(TensorSpec("latent_sample", "float32", ("batch", channels, "h", "w")),),
            outputs=(TensorSpec("sample", "float32", ("batch", 3, "height", "width")),),
            axes={"batch": 2, "h": 9, "w": 11},
            tolerance=TOLERANCE,
            tiled=True,
        ),
    )


STABLE_DIFFUSION = Family(
    name="stable-diffusion",
    tasks=tasks,
    parts={"text_encoder": ("CLIPTextModel",), "unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL",)},
    skipped=("safety_checker", "feature_extractor", "image_encoder"),
    components=components,
    defaults=defaults,
    latents=latents,
    conditions=CONDITIONS,
    tokenizers={"text_encoder": "tokenizer"},
)
