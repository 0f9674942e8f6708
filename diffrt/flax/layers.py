"""Layers as functions of parameters: f(p, name, x, ...), pixels last but one, [B,H,W,C].

`p` gives a parameter by the name and the shape that the layer wants it in: see parameters.py. Weights are [out,in], as
in the checkpoint, and [kh,kw,in,out]. Norms and the softmax are computed in float32 whatever the dtype.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from diffrt.flax.parameters import Parameters

f32 = jnp.float32


def linear(p: Parameters, name: str, x: Array, out: int, bias: bool = True) -> Array:  # [...,in] -> [...,out]
    y = lax.dot_general(x, p(f"{name}.weight", (out, x.shape[-1])), (((x.ndim - 1,), (1,)), ((), ())))
    return y + p(f"{name}.bias", (out,)) if bias else y


def conv(
    p: Parameters, name: str, x: Array, out: int, kernel: int = 3, stride: int = 1, pad: tuple[int, int] = (1, 1)
) -> Array:  # [B,H,W,in] -> [B,H/stride,W/stride,out]
    """`pad` is that before and after both axes."""
    weight = p(f"{name}.weight", (kernel, kernel, x.shape[-1], out))
    y = lax.conv_general_dilated(x, weight, (stride, stride), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y + p(f"{name}.bias", (out,))


def conv_1x1(p: Parameters, name: str, x: Array, out: int) -> Array:
    return conv(p, name, x, out, kernel=1, pad=(0, 0))


def group_norm(p: Parameters, name: str, x: Array, groups: int, eps: float) -> Array:
    batch, height, width, channels = x.shape
    grouped = x.astype(f32).reshape(batch, height * width, groups, channels // groups)
    mean = grouped.mean((1, 3), keepdims=True)
    variance = jnp.square(grouped - mean).mean((1, 3), keepdims=True)
    y = ((grouped - mean) * lax.rsqrt(variance + eps)).reshape(x.shape)
    return (y * p(f"{name}.weight", (channels,)) + p(f"{name}.bias", (channels,))).astype(x.dtype)


def layer_norm(p: Parameters, name: str, x: Array, eps: float = 1e-5) -> Array:
    y = x.astype(f32)
    y = y - y.mean(-1, keepdims=True)
    y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    return (y * p(f"{name}.weight", x.shape[-1:]) + p(f"{name}.bias", x.shape[-1:])).astype(x.dtype)


def attention(q: Array, k: Array, v: Array, heads: int, causal: bool = False) -> Array:  # [B,L,D], [B,S,D] -> [B,L,D]
    q, k, v = (y.reshape(*y.shape[:2], heads, -1) for y in (q, k, v))
    y = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
    return y.reshape(*y.shape[:2], -1)


def sinusoidal(timestep: Array, dim: int, flip_sin_to_cos: bool, freq_shift: float) -> Array:  # f32[B] -> f32[B,dim]
    """Sinusoidal timestep embedding (Ho et al. 2020, after Vaswani et al. 2017)."""
    half = dim // 2
    angle = timestep[:, None] * jnp.exp(-math.log(10000.0) / (half - freq_shift) * jnp.arange(half, dtype=f32))
    wave = (jnp.cos(angle), jnp.sin(angle)) if flip_sin_to_cos else (jnp.sin(angle), jnp.cos(angle))
    return jnp.pad(jnp.concatenate(wave, axis=-1), ((0, 0), (0, dim % 2)))


def resnet(p: Parameters, name: str, x: Array, out: int, groups: int, eps: float, time: Array | None = None) -> Array:
    """Norm, SiLU and convolution twice, with the time embedding [B,D] added between them where there is one."""
    h = conv(p, f"{name}.conv1", jax.nn.silu(group_norm(p, f"{name}.norm1", x, groups, eps)), out)
    if time is not None:
        h = h + linear(p, f"{name}.time_emb_proj", jax.nn.silu(time), out)[:, None, None]
    h = conv(p, f"{name}.conv2", jax.nn.silu(group_norm(p, f"{name}.norm2", h, groups, eps)), out)
    return h + (conv_1x1(p, f"{name}.conv_shortcut", x, out) if x.shape[-1] != out else x)


def upsample(p: Parameters, name: str, x: Array, size: Sequence[int]) -> Array:
    """To the nearest pixel of a larger picture, then a convolution."""
    for axis, (old, new) in enumerate(zip(x.shape[1:3], size, strict=True), start=1):
        if new == 2 * old:
            x = jnp.repeat(x, 2, axis)
        else:
            x = jnp.take(x, jnp.arange(new) * old // new, axis)
    return conv(p, name, x, x.shape[-1])
