"""UNet2DConditionModel of Stable Diffusion 1.x and 2.x (Rombach et al. 2022, arXiv:2112.10752) in JAX."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from diffrt.flax.layers import (
    attention,
    conv,
    conv_1x1,
    group_norm,
    layer_norm,
    linear,
    resnet,
    sinusoidal,
    upsample,
)
from diffrt.flax.parameters import Parameters
from diffrt.model_configs import UNetConfig


def unet(c: UNetConfig, p: Parameters, sample: Array, timestep: Array, context: Array) -> Array:
    """Noise, or v, of noisy latents: [B,h,w,C], f32 [B] and [B,S,D] -> [B,h,w,C], in the dtype of sample."""
    widths = c.block_out_channels
    wave = sinusoidal(timestep, widths[0], c.flip_sin_to_cos, c.freq_shift).astype(sample.dtype)
    time = linear(p, "time_embedding.linear_1", wave, 4 * widths[0])
    time = linear(p, "time_embedding.linear_2", jax.nn.silu(time), 4 * widths[0])
    block = partial(resnet, p, groups=c.norm_num_groups, eps=c.norm_eps, time=time)

    x = conv(p, "conv_in", sample, widths[0])
    skips = [x]
    for i, width in enumerate(widths):
        stage = f"down_blocks.{i}"
        for j in range(c.layers[i]):
            x = block(f"{stage}.resnets.{j}", x, width)
            if c.down[i]:
                x = transformer(c, p, f"{stage}.attentions.{j}", x, context, c.heads[i])
            skips.append(x)
        if i < c.blocks - 1:
            x = conv(p, f"{stage}.downsamplers.0.conv", x, width, stride=2, pad=(c.downsample_padding,) * 2)
            skips.append(x)

    x = block("mid_block.resnets.0", x, widths[-1])
    x = transformer(c, p, "mid_block.attentions.0", x, context, c.heads[-1])
    x = block("mid_block.resnets.1", x, widths[-1])

    for i, width in enumerate(reversed(widths)):
        stage, mirror = f"up_blocks.{i}", c.blocks - 1 - i
        for j in range(c.layers[mirror] + 1):
            x = block(f"{stage}.resnets.{j}", jnp.concatenate([x, skips.pop()], axis=-1), width)
            if c.up[i]:
                x = transformer(c, p, f"{stage}.attentions.{j}", x, context, c.heads[mirror])
        if i < c.blocks - 1:
            x = upsample(p, f"{stage}.upsamplers.0.conv", x, skips[-1].shape[1:3])
    x = jax.nn.silu(group_norm(p, "conv_norm_out", x, c.norm_num_groups, c.norm_eps))
    return conv(p, "conv_out", x, c.out_channels)


def transformer(c: UNetConfig, p: Parameters, name: str, x: Array, context: Array, heads: int) -> Array:
    """One transformer block over flattened pixels; its projections are 1x1 convolutions in SD1, linear in SD2."""
    batch, height, width, dim = x.shape
    project = linear if c.use_linear_projection else conv_1x1
    h = project(p, f"{name}.proj_in", group_norm(p, f"{name}.norm", x, c.norm_num_groups, 1e-6), dim)
    h, block = h.reshape(batch, height * width, dim), f"{name}.transformer_blocks.0"
    own = layer_norm(p, f"{block}.norm1", h)
    h = h + attend(c, p, f"{block}.attn1", own, own, heads)
    h = h + attend(c, p, f"{block}.attn2", layer_norm(p, f"{block}.norm2", h), context, heads)
    h = h + feed_forward(p, f"{block}.ff.net", layer_norm(p, f"{block}.norm3", h))
    return x + project(p, f"{name}.proj_out", h.reshape(x.shape), dim)


def attend(c: UNetConfig, p: Parameters, name: str, x: Array, context: Array, heads: int) -> Array:
    dim = x.shape[-1]
    q = linear(p, f"{name}.to_q", x, dim, bias=False)
    k = linear(p, f"{name}.to_k", context, dim, bias=False)
    v = linear(p, f"{name}.to_v", context, dim, bias=False)
    if c.upcast_attention:
        q, k, v = (y.astype(jnp.float32) for y in (q, k, v))
    return linear(p, f"{name}.to_out.0", attention(q, k, v, heads).astype(x.dtype), dim)


def feed_forward(p: Parameters, name: str, x: Array) -> Array:
    dim = x.shape[-1]
    value, gate = jnp.split(linear(p, f"{name}.0.proj", x, dim * 8), 2, axis=-1)
    return linear(p, f"{name}.2", value * jax.nn.gelu(gate, approximate=False), dim)
