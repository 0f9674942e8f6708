"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv:2403.03206): two CLIP text encoders, T5, which some go without,
and a transformer over the tokens of words and picture.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffrt.errors import CheckpointError
from diffrt.manifest import TensorSpec
from diffrt.stable_diffusion import latents as unpacked
from diffrt.stable_diffusion import scale_factor

from ..models.sd3 import SD3Transformer2DModel
from ..spec import TOLERANCE, Component, Config, Family
from .latent import autoencoder, text_encoder
from .stable_diffusion_xl import build_text_encoder_2, encode_text
from .t5 import t5_encoder

T5_TOKENS = 256
CONDITIONS = {
    "encoder_hidden_states": ("text_encoder.hidden_states", "text_encoder_2.hidden_states"),
    "text_embeds": ("text_encoder.text_embeds", "text_encoder_2.text_embeds"),
    "t5_hidden_states": ("text_encoder_3.last_hidden_state",),
}


def predict(
    module: SD3Transformer2DModel,
    sample: Tensor,
    timestep: Tensor,
    clip: Tensor,
    pooled: Tensor,
    t5: Tensor | None = None,
) -> Tensor:
    """Without T5 the model is told of as many zeros. CLIP's tokens are padded to the width of T5's, and come first."""
    dtype, width = next(module.parameters()).dtype, module.config.joint_attention_dim
    t5 = clip.new_zeros(clip.shape[0], T5_TOKENS, width) if t5 is None else t5
    words = torch.cat([F.pad(clip, (0, width - clip.shape[-1])), t5], dim=1)
    return module(sample.to(dtype), timestep, words.to(dtype), pooled.to(dtype)).float()


def components(configs: Mapping[str, Config]) -> tuple[Component, ...]:
    transformer, vae, t5 = configs["transformer"], configs["vae"], configs.get("text_encoder_3")
    clips = {name: configs[name] for name in ("text_encoder", "text_encoder_2")}
    channels, patch = vae["latent_channels"], transformer["patch_size"]
    pooled = sum(config["projection_dim"] for config in clips.values())
    hidden = sum(config["hidden_size"] for config in clips.values())
    if transformer["in_channels"] != channels or transformer["pooled_projection_dim"] != pooled:
        raise CheckpointError(
            f"the transformer takes {transformer['in_channels']} channels and {transformer['pooled_projection_dim']} "
            f"numbers of a prompt; the autoencoder's latents have {channels}, the text encoders give {pooled}"
        )
    encoders = [
        text_encoder(
            config,
            build_text_encoder_2,
            encode_text,
            (
                TensorSpec("hidden_states", "float32", ("batch", "sequence", config["hidden_size"])),
                TensorSpec("text_embeds", "float32", ("batch", config["projection_dim"])),
            ),
            name,
        )
        for name, config in clips.items()
    ]
    inputs = [
        TensorSpec("sample", "float32", ("batch", channels, "h", "w")),
        TensorSpec("timestep", "float32", ("batch",)),
        TensorSpec("encoder_hidden_states", "float32", ("batch", "sequence", hidden)),
        TensorSpec("text_embeds", "float32", ("batch", pooled)),
    ]
    if t5 is not None:
        encoders.append(t5_encoder("text_encoder_3", t5, T5_TOKENS))
        inputs.append(TensorSpec("t5_hidden_states", "float32", ("batch", "t5_sequence", t5["d_model"])))
    denoiser = Component(
        name="transformer",
        part="transformer",
        graph="model",
        build=SD3Transformer2DModel,
        call=predict,
        inputs=tuple(inputs),
        outputs=(TensorSpec("out_sample", "float32", ("batch", channels, "h", "w")),),
        axes={"batch": 2, "h": 6 * patch, "w": 10 * patch, "sequence": 77, "t5_sequence": 45},
        tolerance=TOLERANCE,
    )
    return (*encoders, denoiser, *autoencoder(vae))


def defaults(configs: Mapping[str, Config]) -> dict[str, Any]:
    side = configs["transformer"]["sample_size"] * scale_factor(configs["vae"])
    return {"height": side, "width": side, "num_inference_steps": 28, "guidance_scale": 7.0}


def latents(configs: Mapping[str, Config]) -> dict[str, Any]:
    return {**unpacked(configs), "patch": configs["transformer"]["patch_size"]}


STABLE_DIFFUSION_3 = Family(
    name="stable-diffusion-3",
    title="Stable Diffusion 3, 3.5, with and without T5",
    tested="pictures against diffusers 0.42.1",
    all_tasks=("text_to_image", "image_to_image", "inpaint"),
    tasks=lambda configs: ("text_to_image", "image_to_image", "inpaint"),
    parts={
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "text_encoder_3": ("T5EncoderModel",),
        "transformer": ("SD3Transformer2DModel",),
        "vae": ("AutoencoderKL",),
    },
    optional=("text_encoder_3",),
    skipped=("image_encoder", "feature_extractor"),
    components=components,
    defaults=defaults,
    latents=latents,
    denoiser="transformer",
    conditions=CONDITIONS,
    tokenizers={"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "text_encoder_3": "tokenizer_3"},
    t5={"text_encoder_3": T5_TOKENS},
    strength_rounds_up=True,
)
