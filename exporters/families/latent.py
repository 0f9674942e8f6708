"""The components that families of latent diffusion have in common: CLIP text encoders, UNet2DConditionModel and the
autoencoders.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffrt.errors import CheckpointError
from diffrt.manifest import TensorSpec
from diffrt.stable_diffusion import scale_factor

from ..models.unet import UNet2DConditionModel
from ..models.vae import AutoencoderKL
from ..models.vq import VQModel
from ..spec import TOLERANCE, Component, Config


def clip_config(config: Config) -> Any:
    from transformers import CLIPTextConfig

    known = {k: v for k, v in config.items() if k not in ("torch_dtype", "dtype", "transformers_version")}
    clip = CLIPTextConfig(**known)
    clip._attn_implementation = "sdpa"
    return clip


def build_text_encoder(config: Config) -> nn.Module:
    from transformers import CLIPTextModel

    return CLIPTextModel(clip_config(config))


def positions(input_ids: Tensor) -> Tensor:
    """The module's own buffer is not in every checkpoint."""
    return torch.arange(input_ids.shape[1]).unsqueeze(0)


def text_encoder(
    config: Config,
    build: Callable[[Config], nn.Module],
    call: Callable[..., Any],
    outputs: tuple[TensorSpec, ...],
    name: str = "text_encoder",
) -> Component:
    return Component(
        name=name,
        part=name,
        graph="model",
        build=build,
        call=call,
        inputs=(TensorSpec("input_ids", "int64", ("batch", "sequence")),),
        outputs=outputs,
        axes={"batch": 2, "sequence": min(77, config["max_position_embeddings"])},
        tolerance=TOLERANCE,
        high=config["vocab_size"],
    )


def unet(
    config: Config,
    width: int,
    channels: int,
    extra: tuple[TensorSpec, ...] = (),
    beside: Mapping[int, str] | None = None,
) -> Component:
    """A UNet told of tokens of that width, over latents of that many channels; and of what is extra. ``beside``: how
    many more channels it may be told of, and what they are; by default none or, for inpainting, C + 1."""
    if width != config["cross_attention_dim"]:
        raise CheckpointError(
            f"the encoder gives {width} channels and the UNet's cross_attention_dim is "
            f"{config['cross_attention_dim']}: they belong to different models"
        )
    classes = config.get("num_class_embeds")
    if beside is None and classes is not None:
        raise CheckpointError(f"the UNet has num_class_embeds = {classes}: only an upscaler's is told of classes")
    beside = {0: "latents", channels + 1: "inpainting"} if beside is None else beside
    if config["in_channels"] - channels not in beside or config["out_channels"] != channels:
        allowed = " or ".join(f"{channels + more} ({what})" for more, what in beside.items())
        raise CheckpointError(
            f"the UNet takes {config['in_channels']} and gives {config['out_channels']} channels, the autoencoder's "
            f"latents have {channels}: it must give as many, and take {allowed}"
        )
    guidance = () if config.get("time_cond_proj_dim") is None else (TensorSpec("guidance", "float32", ("batch",)),)
    labels = () if classes is None else (TensorSpec("class_labels", "int64", ("batch",)),)
    inputs = (
        TensorSpec("sample", "float32", ("batch", config["in_channels"], "h", "w")),
        TensorSpec("timestep", "float32", ("batch",)),
        TensorSpec("encoder_hidden_states", "float32", ("batch", "sequence", width)),
        *extra,
        *guidance,
        *labels,
    )
    names = [spec.name for spec in inputs]

    def predict(module: nn.Module, *given: Tensor) -> Tensor:
        dtype = next(module.parameters()).dtype
        kept = ("timestep", "time_ids", "guidance", "class_labels")  # half precision cannot hold them
        feeds = {n: x if n in kept else x.to(dtype) for n, x in zip(names, given, strict=True)}
        return module(**feeds).float()

    return Component(
        name="unet",
        part="unet",
        graph="model",
        build=UNet2DConditionModel,
        call=predict,
        inputs=inputs,
        outputs=(TensorSpec("out_sample", "float32", ("batch", channels, "h", "w")),),
        axes={"batch": 2, "h": 9, "w": 11, "sequence": 77},
        tolerance=TOLERANCE,
        high=classes or 1,
    )


def encode_picture(module: AutoencoderKL | VQModel, sample: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = module.encode(sample.to(next(module.parameters()).dtype))
    return mean.float(), std.float()


def decode_latents(module: AutoencoderKL | VQModel, latent_sample: Tensor) -> Tensor:
    return module.decode(latent_sample.to(next(module.parameters()).dtype)).float()


def channels_of(autoencoder: Config) -> int:
    """Of its latents: those of a codebook's entries, where it has one."""
    return autoencoder.get("vq_embed_dim") or autoencoder["latent_channels"]


def autoencoder(
    config: Config, part: str = "vae", build: Callable[[Config], nn.Module] = AutoencoderKL
) -> tuple[Component, Component]:
    channels, factor = channels_of(config), scale_factor(config)
    return (
        Component(
            name="vae_encoder",
            part=part,
            graph="encoder",
            build=build,
            call=encode_picture,
            inputs=(TensorSpec("sample", "float32", ("batch", 3, "height", "width")),),
            outputs=tuple(TensorSpec(n, "float32", ("batch", channels, "h", "w")) for n in ("mean", "std")),
            axes={"batch": 2, "height": 9 * factor, "width": 11 * factor},
            tolerance=TOLERANCE,
            tiled=True,
        ),
        Component(
            name="vae_decoder",
            part=part,
            graph="decoder",
            build=build,
            call=decode_latents,
            inputs=(TensorSpec("latent_sample", "float32", ("batch", channels, "h", "w")),),
            outputs=(TensorSpec("sample", "float32", ("batch", 3, "height", "width")),),
            axes={"batch": 2, "h": 9, "w": 11},
            tolerance=TOLERANCE,
            tiled=True,
        ),
    )
