"""The NumPy interpreter of a table."""

from collections.abc import Sequence

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.tables.program import Program
from diffrt.tables.table import Table

Slots = Sequence[np.ndarray]  # S arrays [B, ...], never written to: a slot may be the same array as another


def init_slots(table: Table, x: np.ndarray) -> Slots:  # [B, ...] -> S of [B, ...], dtype of x
    """The state before the first evaluation. x is the initial latents, already scaled by init_sigma."""
    zero = np.zeros_like(x)
    return (x, *(zero for _ in table.slots[1:]))


def apply_row(table: Table, i: int, slots: Slots, m: np.ndarray | None, z: np.ndarray | None = None) -> Slots:
    """The state after evaluation i, where m = model(c_in[i] * slots[0], t[i]); all in the dtype of slots.

    m [B, ...] may be None where the row calls no model, z [B, ...] where it is not noisy; else that is
    InvalidArgument. Sums run element by element in one order, so that a picture does not depend on the batch it is
    made in.
    """
    x = slots[0]
    if m is None and table.calls[i]:
        raise InvalidArgument(f"evaluation {i} reads the model's output: got None, pass model(c_in * x, t)")
    if z is None and table.noisy[i]:
        raise InvalidArgument(f"evaluation {i} adds fresh noise: got None, pass unit noise of shape {list(x.shape)}")
    y = None
    if m is not None:
        m, width = split_output(table, i, m, x)
        z = z if z is None or width is None else z * width
        if table.threshold is not None:
            y = _shape(table, _linear(table.p[i], x, table.q[i], m))
    return table.programs[i].run((*slots, y, m, z), x, table.clip)


def denoised(table: Table, i: int, slots: Slots, m: np.ndarray) -> np.ndarray:
    """The clean picture the model sees at evaluation i, for previews. S of [B, ...], [B, ...] -> [B, ...]"""
    m, _ = split_output(table, i, m, slots[0])
    return _shape(table, _linear(table.px0[i], slots[0], table.qx0[i], m))


def split_output(table: Table, i: int, m: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The network's output without what it says of the width of z, and that width. [B, C or 2C, ...] -> [B, C, ...]"""
    outputs = 1 if table.spread is None else 2
    needed = [n * outputs if axis == 1 else n for axis, n in enumerate(x.shape)]
    if list(m.shape) != needed:
        why = "" if table.spread is None else " (the scheduler's variance_type is learned: half of it is the variance)"
        raise InvalidArgument(f"the model's output has the shape {list(m.shape)}, needed: {needed}{why}")
    if table.spread is None:
        return m, None
    m, v = np.split(m, 2, axis=1)
    if table.spread == "variance":
        return m, np.sqrt(v)
    assert table.log_std is not None
    low, high = table.log_std[i].astype(m.dtype)
    return m, np.exp(low + (v + 1) / 2 * (high - low))


def _linear(p: float, x: np.ndarray, q: float, m: np.ndarray) -> np.ndarray:
    return Program.of(np.array([[p, 0, q, 0]])).run((x, None, m, None), x)[0]


def _shape(table: Table, y: np.ndarray) -> np.ndarray:
    if table.clip is not None:
        return np.clip(y, -table.clip, table.clip)
    if table.threshold is not None:
        magnitudes = np.abs(y).reshape(len(y), -1)
        s = np.quantile(magnitudes, table.threshold.quantile, axis=1).astype(y.dtype)
        s = np.minimum(np.maximum(s, 1), table.threshold.limit).reshape(-1, *[1] * (y.ndim - 1))
        return np.clip(y, -s, s) / s
    return y
