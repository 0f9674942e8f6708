"""Euler and ancestral Euler in sigma (Karras et al. 2022, arXiv:2206.00364, eq. 1 and algorithm 1's first half).

Splitting a step into a deterministic fall and fresh noise is DDPM's way: Song et al. 2020 (arXiv:2010.02502)
eq. 16 at eta = 1, in the variables of x = x0 + sigma eps.
"""

import math
from dataclasses import replace
from typing import Literal

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.base import Exploding, Respacing
from diffrt.schedulers.betas import f32, linspace, sigmas_of
from diffrt.schedulers.grid import Custom, Grid, Node, time_of, ve_grid, ve_levels
from diffrt.schedulers.onestep import Read, one_step
from diffrt.schedulers.rows import Form, Rows
from diffrt.tables.table import Table


class EulerDiscreteScheduler(Respacing, Exploding):
    """First order, deterministic: x' = x0 + (sigma' / sigma) (x - x0)."""

    interpolation_type: Literal["linear", "log_linear"] = "linear"
    sigma_min: float | None = None
    sigma_max: float | None = None
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    rescale_betas_zero_snr: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    def grid(self, n: int, timesteps: Custom = None, sigmas: Custom = None) -> Grid:
        """Of custom sigmas the last is only arrived at, and may be 0."""
        train = sigmas_of(self.abar())
        if sigmas is not None:
            if timesteps is not None or len(sigmas) < 2:
                raise InvalidArgument("sigmas: two or more, where the run starts to where it ends, and no timesteps")
            sigmas = sigmas.astype(f32)
            return self._grid(time_of(sigmas[:-1], train), sigmas)
        if timesteps is not None and self._continuous:
            raise InvalidArgument("timesteps and timestep_type continuous exclude each other: give sigmas")
        low = high = None
        if log_linear := self.interpolation_type == "log_linear":  # n + 1 levels, however the times are spaced
            levels = linspace(np.log(train[-1]), np.log(train[0]), n + 1)
            levels = np.exp(levels.astype(float)).astype(f32)
            low, high = levels[-1], levels[0]
        ends = low if self.sigma_min is None else self.sigma_min, high if self.sigma_max is None else self.sigma_max
        times, sigmas = ve_levels(self.abar(), self.times(n, timesteps), self.respacing(), ends)
        if log_linear and not self.respacing():
            sigmas = levels
        return self._grid(times, np.append(sigmas, train[0] if self.final_sigmas_type == "sigma_min" else 0))

    @property
    def _continuous(self) -> bool:
        return self.timestep_type == "continuous" and self.prediction_type == "v_prediction"

    def _grid(self, times: np.ndarray, sigmas: np.ndarray) -> Grid:
        if self._continuous:
            times = f32(0.25) * np.log(sigmas[:-1].astype(f32))  # c_noise of arXiv:2206.00364, table 1
        return ve_grid(times, sigmas[: len(times) + 1], self.timestep_spacing)

    def build(
        self, grid: Grid, s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = math.inf, s_noise: float = 1.0
    ) -> Table:
        before = self.prediction_type == "v_prediction"  # as the reference reads it
        return euler(grid, self.read, s_churn, s_tmin, s_tmax, s_noise, before=before)


class EulerAncestralDiscreteScheduler(Exploding):
    """First order, stochastic: fall below the next level, then climb to it with fresh noise."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    rescale_betas_zero_snr: bool = False

    def build(self, grid: Grid) -> Table:
        def move(at: Node, to: Node, x: Form, y: Form, eps: Form, z: Form) -> Form:
            down, up = ancestral(at, to)
            return y + down / at.sigma * (x - y) + up * z

        return one_step(grid, self.read, move)


def ancestral(at: Node, to: Node) -> tuple[float, float]:
    """(down, up): the level to fall to from one VE node, and the fresh noise that then leads to the other."""
    down = to.sigma**2 / at.sigma  # down^2 + up^2 = to.sigma^2
    return down, to.sigma * math.sqrt(max(1 - (to.sigma / at.sigma) ** 2, 0))


def churned(at: Node, steps: int, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float) -> tuple[Node, float]:
    """The node that churn climbs to from a VE node, and how much fresh noise it adds for that (arXiv:2206.00364,
    algorithm 2)."""
    gamma = min(s_churn / steps, math.sqrt(2) - 1) if s_tmin <= at.sigma <= s_tmax else 0.0
    hat = replace(at, sigma=at.sigma * (1 + gamma))
    return hat, s_noise * math.sqrt(hat.sigma**2 - at.sigma**2)


def euler(grid: Grid, read: Read, *churn: float, before: bool = False) -> Table:
    """Of VE nodes. The network is asked before the climb, as in the reference (the paper asks it after), and read as if
    x were above it, or with `before` as what it was asked about."""
    rows = Rows("x")
    for k, (at, to) in enumerate(grid):
        hat, noise = churned(at, len(grid) + grid.skipped, *churn)
        y, _ = read(at if before else hat, rows.x, rows.m)
        x, x0 = rows.x + noise * rows.z, rows.y + y[0] * noise * rows.z
        x_next = x0 + to.sigma / hat.sigma * (x - x0)
        rows.add(k, at, y=y, x0=read(at, rows.x, rows.m)[0], then=[x_next])
    return rows.table(grid)
