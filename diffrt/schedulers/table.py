"""A sampler is a table: one row of numbers per model evaluation, and one rule that runs every row.

    m      = model(c_in * x, t)              raw network output
    y      = shape(p * x + q * m)            shape: nothing, a clip or a dynamic threshold; all that is nonlinear
    slots' = W @ [slots; y; m; z]            z is fresh unit noise

slots[0] is always x. A row whose W has neither y nor m calls no model, one without z draws no noise. Here are the
table, the builder that fills it and the NumPy interpreter that runs it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.grid import Grid, Node
from diffrt.schedulers.program import Program


@dataclass(frozen=True)
class Threshold:
    """Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3): y is clipped to [-s, s] and
    divided by s, where s is that quantile of |y| over one image, at least 1 and at most `limit`."""

    quantile: float
    limit: float


@dataclass(frozen=True)
class Path:
    """A Brownian path over [low, high] in time; each image has its own, of its own seed, where `seed` is None."""

    low: float
    high: float
    seed: int | None = None


COLUMNS = ("t", "alpha", "sigma", "c_in", "p", "q", "px0", "qx0", "W")
OPTIONAL = ("between", "log_std")


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
    # z of a row is W(b) - W(a) over the root of |b - a| for one Brownian path W of the whole run. None: independent.
    between: np.ndarray | None = None  # [E, 2] (a, b)
    path: Path | None = None  # where W is known; given with `between`
    # The network also says how wide z is: its output has twice the channels, m and then v, and z is multiplied by
    # the root of v ("variance"), or by exp of what (v + 1) / 2 interpolates between two log_std ("range").
    spread: Literal["variance", "range"] | None = None
    log_std: np.ndarray | None = None  # [E, 2]

    def __post_init__(self) -> None:
        for name in self._columns():
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

    @cached_property
    def calls(self) -> np.ndarray:  # [E] bool
        """Which rows call the model; the others only add noise."""
        return np.any(self.W[:, :, -3:-1], axis=(1, 2))

    @cached_property
    def noisy(self) -> np.ndarray:  # [E] bool
        """Which evaluations consume fresh noise."""
        return np.any(self.W[:, :, -1], axis=1)

    def before(self, stop: int) -> "Table":
        """Its rows before step `stop`: another run goes on from there."""
        return self._only(self.step_of < stop)

    def after(self, skip: int) -> "Table":
        """Its rows from step `skip` on; what earlier steps would have remembered is zero."""
        return self._only(self.step_of >= skip, skip)

    def _only(self, kept: np.ndarray, skip: int = 0) -> "Table":  # [E] bool
        rows = {name: getattr(self, name)[kept] for name in self._columns()}
        return replace(self, **rows, step_of=self.step_of[kept] - skip)

    def _columns(self) -> list[str]:
        return [*COLUMNS, *(name for name in OPTIONAL if getattr(self, name) is not None)]

    @cached_property
    def folded(self) -> np.ndarray:  # [E, S, S + 3]
        """W as it is run. y stays where it is shaped or a slot keeps it, so that it is made anyway; else it is taken
        apart into x and m, which saves a pass and the digits that cancel."""
        W, y = self.W.copy(), np.eye(self.W.shape[2])[-3]
        kept = (y == W).all(axis=2).any(axis=1) & (self.p != 0)  # where p is 0, y is m
        apart = ~kept & (self.clip is None and self.threshold is None)
        W[apart, :, 0] += W[apart, :, -3] * self.p[apart, None]
        W[apart, :, -2] += W[apart, :, -3] * self.q[apart, None]
        W[apart, :, -3] = 0
        near = np.round(W)
        return np.where(abs(W - near) < 4e-15, near, W)  # a sum that is 0 or 1 but for rounding costs a product

    @cached_property
    def programs(self) -> list[Program]:
        """How NumPy runs each row. A y that is thresholded, image by image, is given to it."""
        y = np.stack([self.p, self.q], axis=1)[:, : 0 if self.threshold else 2]
        return [Program.of(*row) for row in zip(self.folded, y, strict=True)]

    def __str__(self) -> str:
        terms = (*self.slots, "y", "m", "z")

        def form(row: np.ndarray) -> str:
            parts = [f"{'' if c == 1 else f'{c:.5g} '}{n}" for c, n in zip(row, terms, strict=True) if c]
            return " + ".join(parts).replace("+ -", "- ") or "0"

        shape = f", y clipped to {self.clip:g}" if self.clip is not None else ""
        shape = f", y thresholded at its {self.threshold.quantile:g} quantile" if self.threshold else shape
        shape += f", z scaled by a learned {self.spread}" if self.spread else ""
        lines = [
            f"{self.steps} steps, {self.evals} evaluations, slots {' '.join(self.slots)}{shape}; "
            f"starts from {self.init_sigma:.5g} times unit noise"
        ]
        unit = np.eye(len(terms))
        for i in range(self.evals):
            m = f"m = model({self.c_in[i]:.5g} x, {self.t[i]:.7g})"
            y = f"y = {form(self.p[i] * unit[0] + self.q[i] * unit[-2])}"
            then = [f"{s} = {form(w)}" for s, w in zip(self.slots, self.W[i], strict=True)]
            lines.append(f"{self.step_of[i]:4d}  " + "; ".join([m, y, *then] if self.calls[i] else then))
        return "\n".join(lines)


Form = np.ndarray  # [S + 3] f64, what something is of [slots; y; m; z]
Pair = tuple[float, float] | None


class Rows:
    """Builds a table by running a sampler's formula once on unit vectors: with `slots`, `x`, `y`, `m` and `z` in their
    places, the value of the paper's formula is the row."""

    def __init__(self, *slots: str) -> None:
        units = np.eye(len(slots) + 3)
        self.names = slots
        self.slots = tuple(units[: len(slots)])
        self.x = units[0]
        self.y, self.m, self.z = units[-3:]
        self._rows: list[tuple] = []

    def add(
        self, step: int, at: Node, y: Form, x0: Form, then: Sequence[Form], between: Pair = None, log_std: Pair = None
    ) -> None:
        """One evaluation at a node: y and x0 as forms in x and m, then the next value of every slot. `between` and
        `log_std` as in Table, in every row or in none."""
        columns = (at.t, at.alpha, at.sigma, at.c_in, y[0], y[-2], x0[0], x0[-2], np.stack(then))
        self._rows.append((step, *columns, between, log_std))

    def add_noise(self, step: int, at: Node, then: Sequence[Form]) -> None:
        """A row that calls no model, from a node on."""
        self.add(step, at, 0 * self.x, 0 * self.x, then)

    def table(self, grid: Grid, **how: Any) -> Table:
        """`how`: clip, threshold, spread and path of Table."""
        step, *columns = zip(*self._rows, strict=True)
        filled = [None if column[0] is None else np.array(column) for column in columns]
        rows: dict = dict(zip((*COLUMNS, *OPTIONAL), filled, strict=True))
        return Table(self.names, **rows, step_of=np.array(step), init_sigma=grid.init_sigma, **how)


def combined(weights: Iterable[float], outputs: Iterable[np.ndarray]) -> np.ndarray:
    """The weighted sum of the first of them, as many as there are weights."""
    return sum((w * y for w, y in zip(weights, outputs, strict=False)), np.zeros(()))


# --- the NumPy interpreter -------------------------------------------------------------------------------

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
