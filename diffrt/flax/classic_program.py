"""The program of the classic face: a whole call, from ids to pictures, on one device or on each of many.

Noise is jax.random's from the given key, drawn in the order of diffusers' Flax pipelines, always in float32.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from diffrt.flax.checkpoint import Networks, Params
from diffrt.flax.programs import Condition, Noise, decode, denoise, embed, encode
from diffrt.flax.rows import SLOTS, Rows

f32 = jnp.float32
Arrays = Any  # jax's or NumPy's


class Draw(NamedTuple):
    """What one device is given beside the parameters."""

    ids: Arrays  # i32 [B,S]
    negative: Arrays  # i32 [B,S]
    key: Arrays
    guidance: Arrays  # [B]
    start: Mapping[str, Arrays]  # noise [B,C,h,w], picture [B,H,W,3] and mask [B,h,w,1] where there are any


def generate(
    c: Networks, dtype: Any, shape: tuple[int, int, int], task: str, params: Params, rows: Rows, ends: Array, draw: Draw
) -> Array:  # [B,H,W,3]
    """ends: [2], what a picture's latents and the noise are multiplied by at the start. shape: C, h, w."""
    embeds = jnp.stack([embed(c, params, ids) for ids in (draw.negative, draw.ids)], axis=1)
    batch, key = len(draw.ids), draw.key

    def last(x: Array) -> Array:
        return jnp.moveaxis(x, 1, -1)

    def posterior(key: Array) -> Array:
        mean, std = encode(c, dtype, params, draw.start["picture"])
        return mean + std * jax.random.normal(key, mean.shape, f32)

    noise = draw.start.get("noise")
    noise = last(jax.random.normal(key, (batch, *shape), f32) if noise is None else noise)
    x, beside = ends[1] * noise, None
    if task == "image_to_image":
        x = ends[0] * posterior(key) + x
    elif task == "inpaint":
        key, other = jax.random.split(key)
        beside = jnp.concatenate([draw.start["mask"], posterior(other)], axis=-1)
    slots = jnp.zeros((SLOTS, *x.shape), f32).at[0].set(x)
    fresh: Noise = lambda i: jax.random.normal(jax.random.fold_in(key, i), x.shape, f32)  # noqa: E731
    condition = Condition(embeds, draw.guidance[:, None], beside)
    slots = denoise(c, dtype, params, rows, slots, condition, fresh)
    return jnp.clip(decode(c, dtype, params, slots[0]) * 0.5 + 0.5, 0, 1)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def one_device(
    c: Networks, dtype: Any, shape: tuple[int, int, int], task: str, params: Params, rows: Rows, ends: Array, draw: Draw
) -> Array:
    return generate(c, dtype, shape, task, params, rows, ends, draw)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def all_devices(
    c: Networks, dtype: Any, shape: tuple[int, int, int], task: str, params: Params, rows: Rows, ends: Array, draw: Draw
) -> Array:
    """The leading axis of params and draw is that of devices."""

    def own(params: Params, rows: Rows, ends: Array, draw: Draw) -> Array:
        params, draw = jax.tree.map(lambda each: each[0], (params, draw))
        return generate(c, dtype, shape, task, params, rows, ends, draw)[None]

    mesh, there = Mesh(np.array(jax.devices()), ("data",)), P("data")
    return jax.shard_map(own, mesh=mesh, in_specs=(there, P(), P(), there), out_specs=there, check_vma=False)(
        params, rows, ends, draw
    )
