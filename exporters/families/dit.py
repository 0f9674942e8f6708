"""Diffusion transformers that draw a class (DiTPipeline): DiTTransformer2DModel and AutoencoderKL."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diffrt.errors import CheckpointError
from diffrt.manifest import TensorSpec
from diffrt.stable_diffusion import latents, scale_factor

from ..models.dit import DiTTransformer2DModel
from ..spec import TOLERANCE, Component, Config, Family
from .latent import autoencoder


def components(configs: Mapping[str, Config]) -> tuple[Component, ...]:
    transformer, vae = configs["transformer"], configs["vae"]
    channels = vae["latent_channels"]
    if transformer["in_channels"] != channels or transformer["out_channels"] not in (None, channels, 2 * channels):
        raise CheckpointError(
            f"the transformer takes {transformer['in_channels']} and gives {transformer['out_channels']} channels, the "
            f"autoencoder's latents have {channels}: it must take as many, and give as many or twice as many"
        )

    def predict(module: nn.Module, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        out = module(sample.to(next(module.parameters()).dtype), timestep, class_labels)
        return out[:, :channels].float()  # what it says of the variance is not read

    denoiser = Component(
        name="transformer",
        part="transformer",
        graph="model",
        build=DiTTransformer2DModel,
        call=predict,
        inputs=(
            TensorSpec("sample", "float32", ("batch", channels, "h", "w")),
            TensorSpec("timestep", "float32", ("batch",)),
            TensorSpec("class_labels", "int64", ("batch",)),
        ),
        outputs=(TensorSpec("out_sample", "float32", ("batch", channels, "h", "w")),),
        axes={"batch": 2, "h": 6 * transformer["patch_size"], "w": 10 * transformer["patch_size"]},
        tolerance=TOLERANCE,
        high=transformer["num_embeds_ada_norm"],
    )
    return (denoiser, *autoencoder(vae))


def defaults(configs: Mapping[str, Config]) -> dict[str, Any]:
    side = configs["transformer"]["sample_size"] * scale_factor(configs["vae"])
    return {"height": side, "width": side, "num_inference_steps": 50, "guidance_scale": 4.0}


def classes(index: Mapping[str, Any], configs: Mapping[str, Config]) -> tuple[str, ...]:
    """The names of each, of which model_index.json may tell."""
    known = index.get("id2label") or {}
    return tuple(str(known.get(str(i), i)) for i in range(configs["transformer"]["num_embeds_ada_norm"]))


DIT = Family(
    name="dit",
    title="DiT, of classes",
    tested="pictures and components against diffusers 0.42.1",
    all_tasks=("class_to_image",),
    tasks=lambda configs: ("class_to_image",),
    parts={"transformer": ("DiTTransformer2DModel", "Transformer2DModel"), "vae": ("AutoencoderKL",)},
    skipped=(),
    components=components,
    defaults=defaults,
    latents=latents,
    denoiser="transformer",
    classes=classes,
)
