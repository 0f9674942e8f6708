"""Variations of a picture: Stable Diffusion that is told what CLIP sees in one (Radford et al. 2021, arXiv:2103.00020),
as a single token in place of a prompt's.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from diffrt.components.clip_pixels import SETTINGS
from diffrt.components.image_encoder import INPUT
from diffrt.manifest import IMAGE_ENCODER, TensorSpec
from diffrt.stable_diffusion import defaults, latents

from ..models.clip_vision import CLIPVisionModelWithProjection, VisionConfig
from ..spec import Component, Config, Family
from . import safety
from .latent import autoencoder, unet

TOLD, EMBEDS = "encoder_hidden_states", "image_embeds"


def look(module: CLIPVisionModelWithProjection, pixels: Tensor) -> Tensor:
    return module(pixels.to(next(module.parameters()).dtype)).float().unsqueeze(1)


def image_encoder(config: Config) -> Component:
    side = VisionConfig.read(config).image_size
    return Component(
        name=IMAGE_ENCODER,
        part=IMAGE_ENCODER,
        build=CLIPVisionModelWithProjection,
        call=look,
        inputs=(TensorSpec(INPUT, "float32", ("batch", 3, side, side)),),
        outputs=(TensorSpec(EMBEDS, "float32", ("batch", 1, config["projection_dim"])),),
        axes={"batch": 2},
    )


def components(configs: Mapping[str, Config]) -> tuple[Component, ...]:
    vae, width = configs["vae"], configs[IMAGE_ENCODER]["projection_dim"]
    network = unet(configs["unet"], width, vae["latent_channels"], beside={0: "latents"})
    inputs = (replace(spec, shape=("batch", 1, width)) if spec.name == TOLD else spec for spec in network.inputs)
    axes = {axis: size for axis, size in network.axes.items() if axis != "sequence"}
    return (
        image_encoder(configs[IMAGE_ENCODER]),
        replace(network, inputs=tuple(inputs), axes=axes),
        *autoencoder(vae),
        *((safety.safety_checker(configs[safety.NAME]),) if safety.NAME in configs else ()),
    )


IMAGE_VARIATION = Family(
    name="image-variation",
    title="Variations of a picture",
    tested="pictures and components against diffusers 0.42.1",
    all_tasks=("variation",),
    tasks=lambda configs: ("variation",),
    parts={
        IMAGE_ENCODER: ("CLIPVisionModelWithProjection",),
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        **safety.PARTS,
    },
    optional=tuple(safety.PARTS),
    requested=safety.REQUESTED,
    settings={IMAGE_ENCODER: SETTINGS, **safety.SETTINGS},
    skipped=("safety_checker", "feature_extractor"),
    components=components,
    defaults=defaults,
    latents=latents,
    conditions={TOLD: (f"{IMAGE_ENCODER}.{EMBEDS}",)},
    zero_negative=True,
)
