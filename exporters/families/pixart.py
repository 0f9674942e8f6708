"""PixArt-alpha and PixArt-sigma (Chen et al. 2023, arXiv:2310.00426; 2024, arXiv:2403.04692): T5 reads the prompt, and
a transformer attends to its tokens, but not to padding. Some are told of the picture's size.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffrt.errors import CheckpointError
from diffrt.manifest import TensorSpec
from diffrt.stable_diffusion import latents as unpacked
from diffrt.stable_diffusion import scale_factor

from ..models.pixart import PixArtTransformer2DModel
from ..spec import TOLERANCE, Component, Config, Family
from .latent import autoencoder
from .pixart_sizes import SIZES
from .t5 import t5_encoder

ALPHA_TOKENS, SIGMA_TOKENS = 120, 300


def components(configs: Mapping[str, Config], tokens: int) -> tuple[Component, ...]:
    """``tokens``: as long as prompts are."""
    t5, transformer, vae = configs["text_encoder"], configs["transformer"], configs["vae"]
    channels, patch, factor = vae["latent_channels"], transformer["patch_size"], scale_factor(vae)
    given = transformer.get("out_channels", 8) or transformer["in_channels"]
    if transformer["in_channels"] != channels or given not in (channels, 2 * channels):
        raise CheckpointError(
            f"the transformer takes {transformer['in_channels']} and gives {given} channels, the autoencoder's latents "
            f"have {channels}: it must take as many, and give as many or twice as many"
        )
    width = transformer.get("caption_channels") or transformer["cross_attention_dim"]
    if width != t5["d_model"]:
        raise CheckpointError(f"the transformer takes tokens {width} wide: it must take {t5['d_model']}, as T5 gives")

    def predict(module: PixArtTransformer2DModel, sample: Tensor, timestep: Tensor, words: Tensor) -> Tensor:
        """Tokens that are zero are padding."""
        dtype, kept = next(module.parameters()).dtype, words.abs().amax(2) > 0
        sizes = None
        if module.config.sized:
            height, width = (side * factor for side in sample.shape[2:])
            numbers = (torch.sym_float(height), torch.sym_float(width), height / width)
            sizes = torch.cat([torch.full((1,), number, dtype=torch.float32) for number in numbers])
        out = module(sample.to(dtype), timestep, words.to(dtype), kept, sizes)
        return out[:, :channels].float()  # what it says of the variance is not read

    denoiser = Component(
        name="transformer",
        part="transformer",
        graph="model",
        build=PixArtTransformer2DModel,
        call=predict,
        inputs=(
            TensorSpec("sample", "float32", ("batch", channels, "h", "w")),
            TensorSpec("timestep", "float32", ("batch",)),
            TensorSpec("encoder_hidden_states", "float32", ("batch", "sequence", width)),
        ),
        outputs=(TensorSpec("out_sample", "float32", ("batch", channels, "h", "w")),),
        axes={"batch": 2, "h": 6 * patch, "w": 10 * patch, "sequence": tokens},
        tolerance=TOLERANCE,
    )
    return (t5_encoder("text_encoder", t5, tokens, masked=True), denoiser, *autoencoder(vae))


def defaults(configs: Mapping[str, Config]) -> dict[str, Any]:
    side = configs["transformer"]["sample_size"] * scale_factor(configs["vae"])
    return {"height": side, "width": side, "num_inference_steps": 20, "guidance_scale": 4.5}


def latents(configs: Mapping[str, Config]) -> dict[str, Any]:
    sizes = SIZES.get(configs["transformer"]["sample_size"])
    own = {**unpacked(configs), "patch": configs["transformer"]["patch_size"]}
    return own if sizes is None else {**own, "sizes": sizes}


PIXART_ALPHA = Family(
    name="pixart-alpha",
    title="PixArt-alpha",
    tested="pictures and components against diffusers 0.42.1",
    all_tasks=("text_to_image", "image_to_image"),
    tasks=lambda configs: ("text_to_image", "image_to_image"),
    parts={
        "text_encoder": ("T5EncoderModel",),
        "transformer": ("PixArtTransformer2DModel", "Transformer2DModel"),
        "vae": ("AutoencoderKL",),
    },
    skipped=(),
    components=partial(components, tokens=ALPHA_TOKENS),
    defaults=defaults,
    latents=latents,
    denoiser="transformer",
    conditions={"encoder_hidden_states": ("text_encoder.last_hidden_state",)},
    tokenizers={"text_encoder": "tokenizer"},
    t5={"text_encoder": ALPHA_TOKENS},
    lowered=True,
)

PIXART_SIGMA = replace(
    PIXART_ALPHA,
    name="pixart-sigma",
    title="PixArt-sigma",
    components=partial(components, tokens=SIGMA_TOKENS),
    t5={"text_encoder": SIGMA_TOKENS},
)
