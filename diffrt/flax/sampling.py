"""The JAX interpreter of tables (see diffrt/tables/table.py): one lax.scan over the rows, to run under jit.

The rows are an argument, so that another table of the same shape runs without compiling anew:

    run = jax.jit(partial(sample, model))
    slots = run(arrays(table), init_slots(table, x), z)
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffrt.tables.arrays import COLUMNS
from diffrt.tables.table import Table

Model = Callable[[jax.Array, jax.Array], jax.Array]  # (x [B,...], t []) -> m [B,...]


def init_slots(table: Table, x: Any, slots: int | None = None) -> jax.Array:  # [B,...] -> [S,B,...]
    """The state before the first row. x is the initial latents, already scaled by init_sigma."""
    x = jnp.asarray(x)
    return jnp.zeros((slots or len(table.slots), *x.shape), x.dtype).at[0].set(x)


def sample(
    model: Model,
    rows: Mapping[str, Any],
    slots: jax.Array,
    noise: jax.Array | Callable[[jax.Array], jax.Array] | None = None,
    spread: str | None = None,
) -> jax.Array:  # [S,B,...]
    """The slots after all rows; slots[0] is the latents.

    rows: of diffrt.tables.arrays. noise: the unit noise of every row, [E,B,...], or a function of a row's index;
    None where no row is noisy. spread: the table's.
    """
    draw = noise if callable(noise) else lambda i: jnp.zeros_like(slots[0]) if noise is None else jnp.asarray(noise)[i]
    columns = {name: jnp.asarray(rows[name]) for name in COLUMNS if name in rows}

    def step(slots: jax.Array, at: tuple[jax.Array, dict[str, jax.Array]]) -> tuple[jax.Array, None]:
        i, row = at
        x, z = slots[0], draw(i)
        silent = jnp.zeros_like(x) if spread is None else jnp.concatenate([jnp.zeros_like(x)] * 2, axis=1)
        scaled = (x * row["c_in"]).astype(x.dtype)
        m = jax.lax.cond(row["calls"], lambda: model(scaled, row["t"]).astype(x.dtype), lambda: silent)
        if spread is not None:
            m, v = jnp.split(m, 2, axis=1)
            z = z * jnp.where(row["calls"], _width(v, row, spread), 1)
        y = _shape(row["p"] * x + row["q"] * m, rows)
        terms = jnp.concatenate([slots, jnp.stack([y, m, z])])
        return jnp.einsum("st,t...->s...", row["W"], terms, precision="highest").astype(slots.dtype), None

    return jax.lax.scan(step, slots, (jnp.arange(len(columns["t"])), columns))[0]


def _width(v: jax.Array, row: Mapping[str, jax.Array], spread: str) -> jax.Array:
    if spread == "variance":
        return jnp.sqrt(v)
    low, high = row["log_std"]
    return jnp.exp(low + (v + 1) / 2 * (high - low))


def _shape(y: jax.Array, rows: Mapping[str, Any]) -> jax.Array:
    y = jnp.clip(y, -rows["clip"], rows["clip"])
    if "threshold" in rows:
        quantile, limit = rows["threshold"]
        s = jnp.quantile(jnp.abs(y).reshape(len(y), -1), quantile, axis=1)
        s = jnp.minimum(jnp.maximum(s, 1), limit).reshape(-1, *[1] * (y.ndim - 1))
        y = jnp.clip(y, -s, s) / s
    return y
