"""A sampler is a table: one row of numbers per model evaluation, and one rule that runs every row.

    m      = model(c_in * x, t)              raw network output
    y      = shape(p * x + q * m)            shape: nothing, a clip or a dynamic threshold; all that is nonlinear
    slots' = W @ [slots; y; m; z]            z is fresh unit noise

slots[0] is always x. Here are the table, the builder that fills it and the NumPy interpreter that runs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.grid import Grid, Node


@dataclass(frozen=True)
class Threshold:
    """Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3): y is clipped to [-s, s] and
    divided by s, where s is that quantile of |y| over one image, at least 1 and at most `limit`."""

    quantile: float
    limit: float


COLUMNS = ("t", "alpha", "sigma", "c_in", "p", "q", "px0", "qx0", "W")


@dataclass(frozen=True, eq=False)
class Table:
    """E evaluations of a sampler with S slots. Arrays are float64 and read-only.

    `clip` and `threshold` say how y is shaped; at most one is set, and then y = x0. Initial latents are unit
    noise times `init_sigma`; every other slot starts at zero.
    """

    slots: tuple[str, ...]  # "x" first
    t: np.ndarray  # [E] the time the model is told
    alpha: np.ndarray  # [E] the noise level of x there: x = alpha * x0 + sigma * eps
    sigma: np.ndarray  # [E]
    c_in: np.ndarray  # [E]
    p: np.ndarray  # [E]
    q: np.ndarray  # [E]
    px0: np.ndarray  # [E] x0 = px0 * x + qx0 * m, whatever y is: for previews
    qx0: np.ndarray  # [E]
    W: np.ndarray  # [E, S, S + 3] columns: slots, y, m, z
    step_of: np.ndarray  # [E] i64, the step an evaluation belongs to; the step ends where the next one differs
    init_sigma: float = 1.0
    clip: float | None = None
    threshold: Threshold | None = None

    def __post_init__(self) -> None:
        for name in COLUMNS:
            column = getattr(self, name)
            bad = ~np.isfinite(column.reshape(self.evals, -1)).all(axis=1)
            if bad.any():
                raise InvalidArgument(
                    f"this configuration gives {name} a value that is not finite at t = {self.t[bad][0]:g}: "
                    "take fewer steps or another timestep_spacing, and check the betas"
                )
            column.setflags(write=False)

    @property
    def evals(self) -> int:
        """Model evaluations."""
        return len(self.t)

    @property
    def steps(self) -> int:
        """Inference steps; two-stage methods have more evaluations than steps."""
        return int(self.step_of[-1]) + 1

    @property
    def noisy(self) -> np.ndarray:  # [E] bool
        """Which evaluations consume fresh noise."""
        return np.any(self.W[:, :, -1], axis=1)

    def after(self, skip: int) -> "Table":
        """Its rows from step `skip` on; what earlier steps would have remembered is zero."""
        kept = self.step_of >= skip
        rows = {name: getattr(self, name)[kept] for name in COLUMNS}
        return replace(self, **rows, step_of=self.step_of[kept] - skip)

    def __str__(self) -> str:
        terms = (*self.slots, "y", "m", "z")

        def form(row: np.ndarray) -> str:
            parts = [f"{'' if c == 1 else f'{c:.5g} '}{n}" for c, n in zip(row, terms, strict=True) if c]
            return " + ".join(parts).replace("+ -", "- ") or "0"

        shape = f", y clipped to {self.clip:g}" if self.clip is not None else ""
        shape = f", y thresholded at its {self.threshold.quantile:g} quantile" if self.threshold else shape
        lines = [
            f"{self.steps} steps, {self.evals} evaluations, slots {' '.join(self.slots)}{shape}; "
            f"starts from {self.init_sigma:.5g} times unit noise"
        ]
        unit = np.eye(len(terms))
        for i in range(self.evals):
            m = f"m = model({self.c_in[i]:.5g} x, {self.t[i]:.7g})"
            y = f"y = {form(self.p[i] * unit[0] + self.q[i] * unit[-2])}"
            then = [f"{s} = {form(w)}" for s, w in zip(self.slots, self.W[i], strict=True)]
            lines.append(f"{self.step_of[i]:4d}  " + "; ".join([m, y, *then]))
        return "\n".join(lines)


class Rows:
    """Builds a table by running a sampler's formula once on unit vectors.

    A linear form over [slots; y; m; z] is a float64 vector of S + 3 coefficients; with the unit vectors `slots`,
    `x`, `y`, `m` and `z` in its place, the value of the paper's formula is the row.
    """

    def __init__(self, *slots: str) -> None:
        units = np.eye(len(slots) + 3)
        self.names = slots
        self.slots = tuple(units[: len(slots)])
        self.x = units[0]
        self.y, self.m, self.z = units[-3:]
        self._rows: list[tuple] = []

    def add(self, step: int, at: Node, y: np.ndarray, x0: np.ndarray, then: Sequence[np.ndarray]) -> None:
        """One evaluation at a node: y and x0 as forms in x and m, then the next value of every slot."""
        self._rows.append((step, at.t, at.alpha, at.sigma, at.c_in, y[0], y[-2], x0[0], x0[-2], np.stack(then)))

    def table(self, grid: Grid, clip: float | None = None, threshold: Threshold | None = None) -> Table:
        step, *columns = (np.array(column) for column in zip(*self._rows, strict=True))
        rows = dict(zip(COLUMNS, columns, strict=True))
        return Table(self.names, **rows, step_of=step, init_sigma=grid.init_sigma, clip=clip, threshold=threshold)


# --- the NumPy interpreter -------------------------------------------------------------------------------


def init_slots(table: Table, x: np.ndarray) -> np.ndarray:  # [B, ...] -> [S, B, ...], dtype of x
    """The state before the first evaluation. x is the initial latents, already scaled by init_sigma."""
    slots = np.zeros((len(table.slots), *x.shape), x.dtype)
    slots[0] = x
    return slots


def apply_row(
    table: Table, i: int, slots: np.ndarray, m: np.ndarray, z: np.ndarray | None = None
) -> np.ndarray:  # [S, B, ...], [B, ...], [B, ...] -> [S, B, ...], in the dtype of slots
    """The state after evaluation i, where m = model(c_in[i] * slots[0], t[i]).

    z may be None where the row is not noisy, else that is InvalidArgument. Sums run element by element in one
    order, so that a picture does not depend on the batch it is made in.
    """
    w = table.W[i].astype(slots.dtype)
    if z is None and w[:, -1].any():
        raise InvalidArgument(f"evaluation {i} adds fresh noise: got None, pass unit noise of shape {m.shape}")
    y = _shape(table, _linear(table.p[i], slots[0], table.q[i], m))
    terms = (*slots, y, m, z)
    out = np.zeros_like(slots)
    for slot, row in zip(out, w, strict=True):
        used = np.flatnonzero(row)
        for j in used[:1]:
            np.multiply(terms[j], row[j], out=slot)
        for j in used[1:]:
            slot += row[j] * terms[j]
    return out


def denoised(table: Table, i: int, slots: np.ndarray, m: np.ndarray) -> np.ndarray:
    """The clean picture the model sees at evaluation i, for previews. [S, B, ...], [B, ...] -> [B, ...]"""
    return _shape(table, _linear(table.px0[i], slots[0], table.qx0[i], m))


def _linear(p: float, x: np.ndarray, q: float, m: np.ndarray) -> np.ndarray:
    return x.dtype.type(p) * x + x.dtype.type(q) * m


def _shape(table: Table, y: np.ndarray) -> np.ndarray:
    if table.clip is not None:
        return np.clip(y, -table.clip, table.clip)
    if table.threshold is not None:
        magnitudes = np.abs(y).reshape(len(y), -1)
        s = np.quantile(magnitudes, table.threshold.quantile, axis=1).astype(y.dtype)
        s = np.minimum(np.maximum(s, 1), table.threshold.limit).reshape(-1, *[1] * (y.ndim - 1))
        return np.clip(y, -s, s) / s
    return y
