"""A UNet's graph: time as a scalar, for all or for each, and what Stable Diffusion XL and LCM are told beside."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffrt.errors import BundleError
from diffrt.foreign.adapters import Adapted, Convert, adapted, axis, cast, needed, only_known, output, same
from diffrt.manifest import TensorSpec
from diffrt.onnx_file import GraphFile, Value

NAMES = ("sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids", "timestep_cond")


def unet_component(graph: GraphFile, config: Mapping[str, Any], channels: int) -> Adapted:
    """A UNet over latents of that many channels or, for inpainting, of 2 C + 1."""
    only_known("unet", graph, NAMES)
    sample, time, tokens = (needed("unet", graph, name) for name in NAMES[:3])
    takes = config.get("in_channels") or axis(sample, 1) or _first_convolution(graph) or channels
    if takes not in (channels, 2 * channels + 1):
        allowed = f"{channels}, or {2 * channels + 1} for inpainting"
        raise BundleError(f"unet/model.onnx takes {takes} channels; it must take {allowed}")
    inputs = {
        TensorSpec("sample", "float32", ("batch", takes, "h", "w")): (sample.name, cast("unet", sample)),
        TensorSpec("timestep", "float32", ("batch",)): (time.name, times(time, sample)),
        TensorSpec("encoder_hidden_states", "float32", ("batch", "sequence", axis(tokens, 2) or "width")): (
            tokens.name,
            cast("unet", tokens),
        ),
    }
    for name, size in (("text_embeds", "pooled"), ("time_ids", 6)):
        if name in graph.inputs:
            value = graph.inputs[name]
            inputs[TensorSpec(name, "float32", ("batch", axis(value, 1) or size))] = (name, cast("unet", value))
    if "timestep_cond" in graph.inputs:
        value = graph.inputs["timestep_cond"]
        width = axis(value, 1) or config.get("time_cond_proj_dim")
        inputs[TensorSpec("guidance", "float32", ("batch",))] = (value.name, _embedded(value, width))
    gives = TensorSpec("out_sample", "float32", ("batch", channels, "h", "w"))
    return adapted("unet", inputs, {gives: (output(graph, "out_sample"), same)})


def _first_convolution(graph: GraphFile) -> int | None:
    """The channels that a UNet with no fixed axes takes: exporters keep the name of this tensor."""
    shapes = [tensor.shape for tensor in graph.tensors if tensor.name.endswith("conv_in.weight")]
    return shapes[0][1] if shapes and len(shapes[0]) == 4 else None


def times(time: Value, sample: Value) -> Convert:
    """What makes the graph's input of [B] f32, all equal: a scalar, [N] of a fixed N, [B] where the axis is the
    batch's, else [1]."""
    as_taken = cast("unet", time)
    if time.shape == ():
        return lambda t: as_taken(t[:1]).reshape(())
    size = time.shape[0] if time.shape else ""
    if isinstance(size, int):
        return lambda t: as_taken(np.full(size, t[0]))
    if size and sample.shape and size == sample.shape[0]:
        return as_taken
    return lambda t: as_taken(t[:1])


def _embedded(value: Value, width: Any) -> Convert:
    """The guidance that a distilled model is to act as if it had, [B] -> [B,width]: sines and cosines of 1000 (w - 1)
    (Luo et al. 2023, arXiv:2310.04378, section 4.2)."""
    if type(width) is not int or not 4 <= width <= 8192 or width % 2:
        raise BundleError(f"unet/config.json: time_cond_proj_dim is {width!r:.40}; it must be an even number")
    as_taken = cast("unet", value)
    rates = np.exp(np.arange(width // 2) * (-math.log(10_000) / (width // 2 - 1))).astype(np.float32)

    def embed(guidance: np.ndarray) -> np.ndarray:
        angles = (1000 * (guidance - 1))[:, None] * rates
        return as_taken(np.concatenate([np.sin(angles), np.cos(angles)], axis=1))

    return embed
