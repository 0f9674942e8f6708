"""AutoencoderKL (Rombach et al. 2022; Kingma & Welling 2014) in JAX. The latents it takes and gives are the diffusion
model's: shifted and scaled."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from diffrt.flax.layers import attention, conv, conv_1x1, group_norm, linear, resnet, upsample
from diffrt.flax.parameters import Parameters
from diffrt.model_configs import VAEConfig

EPS = 1e-6  # of every norm


def encode(c: VAEConfig, p: Parameters, picture: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of the posterior: [B,H,W,3] in [-1,1] -> [B,h,w,C] twice."""
    block = partial(resnet, p, groups=c.norm_num_groups, eps=EPS)
    x = conv(p, "encoder.conv_in", picture, c.block_out_channels[0])
    for i, width in enumerate(c.block_out_channels):
        stage = f"encoder.down_blocks.{i}"
        for j in range(c.layers_per_block):
            x = block(f"{stage}.resnets.{j}", x, width)
        if i < len(c.block_out_channels) - 1:  # one row and column are padded, at the far edges alone
            x = conv(p, f"{stage}.downsamplers.0.conv", x, width, stride=2, pad=(0, 1))
    x = normed(c, p, "encoder", middle(c, p, "encoder", x))
    x = conv(p, "encoder.conv_out", x, 2 * c.latent_channels)
    x = conv_1x1(p, "quant_conv", x, 2 * c.latent_channels) if c.use_quant_conv else x
    mean, logvar = jnp.split(x, 2, axis=-1)
    std = jnp.exp(0.5 * jnp.clip(logvar, -30.0, 20.0))
    return (mean - (c.shift_factor or 0.0)) * c.scaling_factor, std * c.scaling_factor


def decode(c: VAEConfig, p: Parameters, latents: Array) -> Array:
    """[B,h,w,C] -> [B,H,W,3], nominally in [-1,1]."""
    block = partial(resnet, p, groups=c.norm_num_groups, eps=EPS)
    x = latents / c.scaling_factor + (c.shift_factor or 0.0)
    x = conv_1x1(p, "post_quant_conv", x, c.latent_channels) if c.use_post_quant_conv else x
    widths = c.block_out_channels[::-1]
    x = middle(c, p, "decoder", conv(p, "decoder.conv_in", x, widths[0]))
    for i, width in enumerate(widths):
        stage = f"decoder.up_blocks.{i}"
        for j in range(c.layers_per_block + 1):
            x = block(f"{stage}.resnets.{j}", x, width)
        if i < len(widths) - 1:
            x = upsample(p, f"{stage}.upsamplers.0.conv", x, (2 * x.shape[1], 2 * x.shape[2]))
    return conv(p, "decoder.conv_out", normed(c, p, "decoder", x), c.out_channels)


def middle(c: VAEConfig, p: Parameters, half: str, x: Array) -> Array:
    """Two residual blocks, single-head attention over pixels between them."""
    width, name = x.shape[-1], f"{half}.mid_block"
    block = partial(resnet, p, groups=c.norm_num_groups, eps=EPS)
    x = block(f"{name}.resnets.0", x, width)
    here = f"{name}.attentions.0"
    h = group_norm(p, f"{here}.group_norm", x, c.norm_num_groups, EPS).reshape(x.shape[0], -1, width)
    q, k, v = (linear(p, f"{here}.to_{part}", h, width) for part in "qkv")
    x = x + linear(p, f"{here}.to_out.0", attention(q, k, v, heads=1), width).reshape(x.shape)
    return block(f"{name}.resnets.1", x, width)


def normed(c: VAEConfig, p: Parameters, half: str, x: Array) -> Array:
    return jax.nn.silu(group_norm(p, f"{half}.conv_norm_out", x, c.norm_num_groups, EPS))
