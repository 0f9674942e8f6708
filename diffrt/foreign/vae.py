"""An autoencoder's graphs, which know nothing of the scale of the denoiser's latents, (z - shift) * scale."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrt.errors import BundleError
from diffrt.foreign.adapters import Adapted, adapted, axis, cast, output
from diffrt.manifest import TensorSpec
from diffrt.onnx_file import GraphFile, Value

Config = Mapping[str, Any]
Affine = tuple[NDArray[np.float32], NDArray[np.float32]]  # shift and scale, each [1 or C,1,1]

SCALING, CHANNELS, FACTOR = 0.18215, 4, 8  # Stable Diffusion's, of folders without configs
LOWEST, HIGHEST = -30.0, 20.0  # between which the logarithm of a variance is kept


def latents(vae: Config, decoder: GraphFile, unet_config: Config, unet: GraphFile) -> dict[str, int]:
    """Channels, and pixels per latent."""
    blocks = vae.get("block_out_channels")
    factor = 2 ** (len(blocks) - 1) if isinstance(blocks, list) and 1 <= len(blocks) <= 8 else FACTOR
    sizes = (
        vae.get("latent_channels"),
        axis(next(iter(decoder.inputs.values()), None), 1),
        unet_config.get("out_channels"),
        axis(unet.outputs.get(output(unet, "out_sample")), 1),
        CHANNELS,
    )
    channels = next(size for size in sizes if size is not None)
    if type(channels) is not int or not 1 <= channels <= 4096:
        raise BundleError(f"vae_decoder/config.json: latent_channels is {channels!r:.40}; it must be a whole number")
    return {"channels": channels, "scale_factor": factor}


def decoder_component(graph: GraphFile, vae: Config, channels: int) -> Adapted:
    value = _only_input("vae_decoder", graph)
    as_taken, (shift, scale) = cast("vae_decoder", value), affine(vae, channels)
    takes = TensorSpec("latent_sample", "float32", ("batch", channels, "h", "w"))
    gives = TensorSpec("sample", "float32", ("batch", 3, "height", "width"))
    return adapted(
        "vae_decoder",
        {takes: (value.name, lambda z: as_taken(z / scale + shift))},
        {gives: (output(graph, "sample"), lambda picture: picture)},
    )


def encoder_component(graph: GraphFile, vae: Config, channels: int) -> Adapted:
    """A graph gives latent_parameters, the mean and the logarithm of the variance, or a draw made in the graph: then
    the mean is that draw, and nothing is spread about it."""
    value, (shift, scale) = _only_input("vae_encoder", graph), affine(vae, channels)
    gives = output(graph, "latent_parameters")
    whole = gives == "latent_parameters" or axis(graph.outputs.get(gives), 1) == 2 * channels

    def mean(z: NDArray[Any]) -> NDArray[Any]:
        return (z[:, :channels] - shift) * scale

    def std(z: NDArray[Any]) -> NDArray[Any]:
        if not whole:
            return np.zeros_like(z)
        return np.exp(np.float32(0.5) * z[:, channels:].clip(LOWEST, HIGHEST)) * scale

    takes = TensorSpec("sample", "float32", ("batch", 3, "height", "width"))
    mean_spec, std_spec = (TensorSpec(name, "float32", ("batch", channels, "h", "w")) for name in ("mean", "std"))
    return adapted(
        "vae_encoder",
        {takes: (value.name, cast("vae_encoder", value))},
        {mean_spec: (gives, mean), std_spec: (gives, std)},
    )


def affine(vae: Config, channels: int) -> Affine:
    """From scaling_factor and shift_factor, or, where they are there, latents_mean and latents_std."""
    numbers = {key: _number(vae, key, default) for key, default in (("scaling_factor", SCALING), ("shift_factor", 0.0))}
    shift, std = (_numbers(vae, key, channels) for key in ("latents_mean", "latents_std"))
    shift = np.full((1, 1, 1), numbers["shift_factor"], np.float32) if shift is None else shift
    scale = np.full((1, 1, 1), numbers["scaling_factor"], np.float32)
    return shift, scale if std is None else scale / std


def _number(vae: Config, key: str, default: float) -> float:
    value = vae.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or (key == "scaling_factor" and not value > 0):
        raise BundleError(f"vae_decoder/config.json: {key} is {value!r:.40}; it must be a number")
    return float(value)


def _numbers(vae: Config, key: str, channels: int) -> NDArray[np.float32] | None:  # [C,1,1]
    value = vae.get(key)
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != channels
        or not all(isinstance(each, int | float) for each in value)
    ):
        raise BundleError(f"vae_decoder/config.json: {key} is {value!r:.40}; it must be {channels} numbers")
    return np.array(value, np.float32)[:, None, None]


def _only_input(part: str, graph: GraphFile) -> Value:
    if len(graph.inputs) != 1:
        raise BundleError(f"{part}/model.onnx takes {', '.join(graph.inputs) or 'nothing'}; it must take one input")
    return next(iter(graph.inputs.values()))
