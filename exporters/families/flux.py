"""Flux.1 dev and schnell (Black Forest Labs 2024): CLIP reads the prompt as a whole, T5 its tokens; dev is told of the
guidance.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diffrt.errors import CheckpointError
from diffrt.manifest import TensorSpec
from diffrt.stable_diffusion import latents as unpacked
from diffrt.stable_diffusion import scale_factor

from ..models.flux import PACK, FluxTransformer2DModel
from ..spec import TOLERANCE, Component, Config, Family
from .latent import autoencoder, build_text_encoder, positions, text_encoder
from .t5 import t5_encoder

T5_TOKENS = 512
SIDE = 128  # of the latents: 1024 pixels
CONDITIONS = {
    "text_embeds": ("text_encoder.pooler_output",),
    "encoder_hidden_states": ("text_encoder_2.last_hidden_state",),
}


def encode_text(module: nn.Module, input_ids: Tensor) -> Tensor:
    return module(input_ids=input_ids, position_ids=positions(input_ids)).pooler_output.float()


def predict(
    module: nn.Module, sample: Tensor, timestep: Tensor, pooled: Tensor, words: Tensor, guidance: Tensor | None = None
) -> Tensor:
    dtype = next(module.parameters()).dtype
    return module(sample.to(dtype), timestep, words.to(dtype), pooled.to(dtype), guidance).float()


def components(configs: Mapping[str, Config], beside: int = 0) -> tuple[Component, ...]:
    """``beside``: how many more channels than the latents' it is told of."""
    text, t5, transformer, vae = (configs[part] for part in FLUX.parts)
    channels = vae["latent_channels"]
    taken = transformer["in_channels"], transformer["joint_attention_dim"]
    given = (channels + beside) * PACK**2, t5["d_model"]
    if taken != given:
        raise CheckpointError(
            f"the transformer takes {taken[0]} channels and tokens {taken[1]} wide: it must take {given[0]}, those of "
            f"four latent pixels{' and of what it is told beside' if beside else ''}, and {given[1]}, which T5 gives"
        )
    told = (TensorSpec("guidance", "float32", ("batch",)),) if transformer.get("guidance_embeds") else ()
    denoiser = Component(
        name="transformer",
        part="transformer",
        graph="model",
        build=FluxTransformer2DModel,
        call=predict,
        inputs=(
            TensorSpec("sample", "float32", ("batch", channels + beside, "h", "w")),
            TensorSpec("timestep", "float32", ("batch",)),
            TensorSpec("text_embeds", "float32", ("batch", text["hidden_size"])),
            TensorSpec("encoder_hidden_states", "float32", ("batch", "sequence", t5["d_model"])),
            *told,
        ),
        outputs=(TensorSpec("out_sample", "float32", ("batch", channels, "h", "w")),),
        axes={"batch": 2, "h": 6 * PACK, "w": 10 * PACK, "sequence": T5_TOKENS},
        tolerance=TOLERANCE,
    )
    pooled = (TensorSpec("pooler_output", "float32", ("batch", text["hidden_size"])),)
    return (
        text_encoder(text, build_text_encoder, encode_text, pooled),
        t5_encoder("text_encoder_2", t5, T5_TOKENS),
        denoiser,
        *autoencoder(vae),
    )


def defaults(configs: Mapping[str, Config]) -> dict[str, Any]:
    """schnell is distilled: four steps without guidance."""
    side = SIDE * scale_factor(configs["vae"])
    dev = bool(configs["transformer"].get("guidance_embeds"))
    steps, guidance = (28, 3.5) if dev else (4, 1.0)
    return {"height": side, "width": side, "num_inference_steps": steps, "guidance_scale": guidance}


def latents(configs: Mapping[str, Config]) -> dict[str, Any]:
    return {**unpacked(configs), "patch": PACK}


FLUX = Family(
    name="flux",
    title="Flux.1 dev, schnell",
    tested="pictures against diffusers 0.42.1",
    all_tasks=("text_to_image", "image_to_image", "inpaint"),
    tasks=lambda configs: ("text_to_image", "image_to_image", "inpaint"),
    parts={
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("T5EncoderModel",),
        "transformer": ("FluxTransformer2DModel",),
        "vae": ("AutoencoderKL",),
    },
    skipped=("image_encoder", "feature_extractor"),
    components=components,
    defaults=defaults,
    latents=latents,
    denoiser="transformer",
    conditions=CONDITIONS,
    tokenizers={"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
    t5={"text_encoder_2": T5_TOKENS},
    even_sigmas=True,
    strength_rounds_up=True,
)
