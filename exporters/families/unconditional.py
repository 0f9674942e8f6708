"""Unconditional models of pixels: a UNet2DModel and a scheduler (DDPMPipeline, DDIMPipeline, PNDMPipeline)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diffrt.errors import CheckpointError
from diffrt.manifest import TensorSpec

from ..models.unet2d import UNet2DModel
from ..spec import TOLERANCE, Component, Config, Family


def predict(module: nn.Module, sample: Tensor, timestep: Tensor) -> Tensor:
    return module(sample.to(next(module.parameters()).dtype), timestep).float()


def denoiser(unet: Config, channels: int) -> Component:
    """A UNet2DModel over latents, or pixels, of that many channels; it may tell how wide its noise is beside."""
    if unet["in_channels"] != channels or unet["out_channels"] not in (channels, 2 * channels):
        raise CheckpointError(
            f"the UNet takes {unet['in_channels']} and gives {unet['out_channels']} channels: it must take {channels} "
            "and give as many, or twice as many where it learns its variance"
        )
    return Component(
        name="unet",
        part="unet",
        graph="model",
        build=UNet2DModel,
        call=predict,
        inputs=(
            TensorSpec("sample", "float32", ("batch", channels, "h", "w")),
            TensorSpec("timestep", "float32", ("batch",)),
        ),
        outputs=(TensorSpec("out_sample", "float32", ("batch", unet["out_channels"], "h", "w")),),
        axes={"batch": 2, "h": 9, "w": 11},
        tolerance=TOLERANCE,
    )


def components(configs: Mapping[str, Config]) -> tuple[Component, ...]:
    return (denoiser(configs["unet"], configs["unet"]["in_channels"]),)


def size(unet: Config) -> tuple[int, int]:
    """Height and width of what the UNet was trained on."""
    size = unet.get("sample_size") or 32
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)


def defaults(configs: Mapping[str, Config]) -> dict[str, Any]:
    height, width = size(configs["unet"])
    return {"height": height, "width": width, "num_inference_steps": 50, "guidance_scale": 1.0}


UNCONDITIONAL = Family(
    name="unconditional",
    title="Unconditional UNets of pixels: DDPM, DDIM, PNDM",
    tested="pictures and components against diffusers 0.42.1",
    all_tasks=("unconditional",),
    tasks=lambda configs: ("unconditional",),
    parts={"unet": ("UNet2DModel",)},
    skipped=(),
    components=components,
    defaults=defaults,
    latents=lambda configs: {"channels": configs["unet"]["in_channels"], "scale_factor": 1},
)
