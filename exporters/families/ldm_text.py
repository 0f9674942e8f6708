"""Latent diffusion of text (Rombach et al. 2022, arXiv:2112.10752): LDMBert, UNet2DConditionModel, and an autoencoder
of either kind (LDMTextToImagePipeline).
"""

from collections.abc import Mapping

from torch import Tensor

from diffrt.manifest import TensorSpec

from ..models.ldm_bert import LDMBertModel
from ..models.vae import AutoencoderKL
from ..models.vq import VQModel
from ..spec import Component, Config, Family
from .latent import autoencoder, channels_of, text_encoder, unet
from .ldm import defaults, latents


def encode(module: LDMBertModel, input_ids: Tensor) -> Tensor:
    return module(input_ids).float()


def components(configs: Mapping[str, Config]) -> tuple[Component, ...]:
    bert, vq = configs["bert"], configs["vqvae"]
    said = (TensorSpec("last_hidden_state", "float32", ("batch", "sequence", bert["d_model"])),)
    build = VQModel if "num_vq_embeddings" in vq else AutoencoderKL
    return (
        text_encoder(bert, LDMBertModel, encode, said, "bert"),
        unet(configs["unet"], bert["d_model"], channels_of(vq)),
        *autoencoder(vq, "vqvae", build),
    )


LDM_TEXT = Family(
    name="ldm-text",
    title="Latent diffusion of text, with LDMBert",
    tested="pictures and components against diffusers 0.42.1",
    all_tasks=("text_to_image",),
    tasks=lambda configs: ("text_to_image",),
    parts={
        "bert": ("LDMBertModel",),
        "unet": ("UNet2DConditionModel",),
        "vqvae": ("VQModel", "AutoencoderKL"),
    },
    skipped=(),
    components=components,
    defaults=defaults,
    latents=latents,
    conditions={"encoder_hidden_states": ("bert.last_hidden_state",)},
    tokenizers={"bert": "tokenizer"},
    bert=("bert",),
)
