"""A sampler is a table: one row of numbers per model evaluation, and one rule that runs every row.

    m      = model(c_in * x, t)              raw network output
    y      = shape(p * x + q * m)            shape: nothing, a clip or a dynamic threshold; all that is nonlinear
    slots' = W @ [slots; y; m; z]            z is fresh unit noise

slots[0] is always x. A row whose W has neither y nor m calls no model, one without z draws no noise.
Schedulers fill tables.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.tables.program import Program


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
