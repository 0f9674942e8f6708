"""The programs that are compiled: text, the loop, pictures. Each is one function of arrays; what is static is the
networks' configs, the dtype and the placement, so that equal ones share what is compiled.

Latents and pictures have their channels last. Everything but the networks is computed in float32.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from diffrt.flax import vae
from diffrt.flax.checkpoint import Networks, Params
from diffrt.flax.clip import clip_text
from diffrt.flax.parameters import lookup
from diffrt.flax.placement import Placement
from diffrt.flax.rows import SHARED
from diffrt.flax.sampling import sample
from diffrt.flax.unet import unet

f32 = jnp.float32
Rows = Mapping[str, Any]
Noise = Array | Callable[[Array], Array]  # that of every row, [E,B,h,w,C], or a function of a row's index


class Condition(NamedTuple):
    """What guides B pictures. With N = 1 + K, the first of N embeddings is what to guide away from; with N = 1 there
    is no guidance."""

    embeds: Array  # [B,N,S,D]
    scale: Array  # [B,K]
    beside: Array | None = None  # [B,h,w,M] channels that the network is given beside the latents


class Keep(NamedTuple):
    """What is put back after every evaluation, where the mask is 0, with as much of the noise as is due."""

    mask: Array  # [B,h,w,1]
    original: Array  # [B,h,w,C]
    noise: Array  # [B,h,w,C]


def embed(c: Networks, params: Params, ids: Array) -> Array:  # i32 [B,S] -> [B,S,D]
    return clip_text(c.text, lookup(params["text_encoder"]), ids).astype(f32)


def encode(c: Networks, dtype: Any, params: Params, pictures: Array) -> tuple[Array, Array]:
    """[B,H,W,3] in [-1,1] -> mean and standard deviation [B,h,w,C]."""
    mean, std = vae.encode(c.vae, lookup(params["vae"]), pictures.astype(dtype))
    return mean.astype(f32), std.astype(f32)


def decode(c: Networks, dtype: Any, params: Params, latents: Array) -> Array:
    """[B,h,w,C] -> [B,H,W,3], nominally in [-1,1]."""
    return vae.decode(c.vae, lookup(params["vae"]), latents.astype(dtype)).astype(f32)


def denoise(
    c: Networks,
    dtype: Any,
    params: Params,
    rows: Rows,
    slots: Array,
    condition: Condition,
    noise: Noise,
    keep: Keep | None = None,
) -> Array:
    """The slots [S,B,h,w,C] after all rows; slots[0] is the latents."""
    embeds, scale, beside = condition
    batch, count = embeds.shape[:2]
    context = embeds.reshape(batch * count, *embeds.shape[2:]).astype(dtype)
    p = lookup(params["unet"])

    def model(row: Rows, x: Array, t: Array) -> Array:
        x = x if beside is None else jnp.concatenate([x, beside], axis=-1)
        # the N evaluations of a picture lie side by side, so that they are on one device
        t = jnp.broadcast_to(t, (batch * count,))
        m = unet(c.unet, p, jnp.repeat(x.astype(dtype), count, axis=0), t, context)
        return guided(m.astype(f32).reshape(batch, count, *m.shape[1:]), row["guided"] * scale + row["plain"], rescale)

    def step(slots: Array, at: tuple[Array, Rows]) -> tuple[Array, None]:
        i, row = at
        one = shaping | {name: value[None] for name, value in row.items()}
        slots = sample(partial(model, row), one, slots, lambda _: noise(i) if callable(noise) else noise[i])
        if keep is not None:
            known = row["alpha_after"] * keep.original + row["sigma_after"] * keep.noise
            slots = slots.at[0].set((1 - keep.mask) * known + keep.mask * slots[0])
        return slots, None

    columns = {name: column for name, column in rows.items() if name not in SHARED}
    shaping, rescale = {name: rows[name] for name in SHARED if name in rows}, rows["rescale"]
    return lax.scan(step, slots, (jnp.arange(len(columns["t"])), columns))[0]


def guided(m: Array, scale: Array, rescale: Array) -> Array:  # [B,1+K,h,w,C], [B,K] -> [B,h,w,C]
    """See diffrt/guidance.py, also for rescale."""
    away, conditions = m[:, 0], m[:, 1:]
    if conditions.shape[1] == 0:
        return away
    out = away + jnp.einsum("bk,bk...->b...", scale, conditions - away[:, None], precision="highest")
    wanted, there = (each.std(axis=(1, 2, 3), keepdims=True) for each in (conditions[:, 0], out))
    return out * jnp.where(rescale > 0, rescale * wanted / there + (1 - rescale), 1)


@partial(jax.jit, static_argnums=(0, 1))
def embed_program(c: Networks, placement: Placement, params: Params, ids: Array) -> Array:
    return lax.with_sharding_constraint(embed(c, params, ids), placement.batch())


@partial(jax.jit, static_argnums=(0, 1, 2))
def encode_program(
    c: Networks, dtype: Any, placement: Placement, params: Params, pictures: Array
) -> tuple[Array, Array]:
    return lax.with_sharding_constraint(encode(c, dtype, params, pictures), placement.batch())


@partial(jax.jit, static_argnums=(0, 1, 2))
def decode_program(c: Networks, dtype: Any, placement: Placement, params: Params, latents: Array) -> Array:
    return lax.with_sharding_constraint(decode(c, dtype, params, latents), placement.batch())


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(5,))
def denoise_program(
    c: Networks,
    dtype: Any,
    placement: Placement,
    params: Params,
    rows: Rows,
    slots: Array,
    condition: Condition,
    noise: Array,
    keep: Keep | None,
) -> Array:
    out = denoise(c, dtype, params, rows, slots, condition, noise, keep)
    return lax.with_sharding_constraint(out, placement.batch(1))
