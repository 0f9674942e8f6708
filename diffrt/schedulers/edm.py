"""Schedulers of networks that are preconditioned as in EDM (Karras et al. 2022, arXiv:2206.00364, section 5): levels
are given by sigma alone, x = x0 + sigma eps, and with the data's deviation d and r^2 = sigma^2 + d^2 (table 1)

    x0 = c_skip x + c_out m,    m = model(c_in x, c_noise)
    c_skip = d^2 / r^2,  c_out = sigma d / r,  c_in = 1 / r,  c_noise = log(sigma) / 4

which is to say that m is minus the v of x0 / d. With prediction_type "v_prediction" it is plus that v.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from diffrt.schedulers.base import Scheduler, Thresholding
from diffrt.schedulers.betas import f32, linspace
from diffrt.schedulers.dpm_multistep import DPMSolverMultistepScheduler
from diffrt.schedulers.euler import euler
from diffrt.schedulers.grid import Custom, Grid, Node, ve_node
from diffrt.tables.table import Path, Table


class Preconditioned(Scheduler):
    """Abstract. Levels from sigma_max to sigma_min, and how their network is read."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    sigma_schedule: Literal["karras", "exponential"] = "karras"
    num_train_timesteps: int = 1000
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    rho: float = 7.0
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    def read(self, at: Node, x: np.ndarray, m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(x0, eps) as linear functions of x and m."""
        d, r = self.sigma_data, math.hypot(at.sigma, self.sigma_data)
        sign = -1 if self.prediction_type == "v_prediction" else 1
        x0 = (d / r) ** 2 * x + sign * at.sigma * d / r * m
        return x0, (x - x0) / at.sigma

    def levels(self, n: int, ramp: np.ndarray) -> np.ndarray:  # [n] f32
        """n of them, falling, in the precision of a ramp from 0 to 1. (The exponential ones are always float32.)"""
        if self.sigma_schedule == "exponential":
            rising = linspace(math.log(self.sigma_min), math.log(self.sigma_max), n).astype(float)
            return np.exp(rising)[::-1].astype(f32)
        low, high = (sigma ** (1 / self.rho) for sigma in (self.sigma_min, self.sigma_max))
        return ((high + ramp * ramp.dtype.type(low - high)).astype(float) ** self.rho).astype(f32)

    def through(self, sigmas: np.ndarray, last: float) -> Grid:
        """The run through these levels, and on to the last."""
        levels = zip((*self.time(sigmas), 0.0), (*sigmas, f32(last)), strict=True)
        return Grid.through([ve_node(t, s, self.sigma_data) for t, s in levels], math.hypot(self.sigma_max, 1))

    def time(self, sigma: np.ndarray) -> np.ndarray:  # [n] f32 -> [n] f32
        """c_noise."""
        return f32(0.25) * np.log(sigma)

    def sigma_of(self, t: np.ndarray) -> np.ndarray:  # [B] f64 -> [B] f64
        return np.exp(4 * t)

    def marginal(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.ones_like(t), self.sigma_of(t)

    @property
    def first_time(self) -> float:
        return float(self.time(np.array([self.sigma_min * 0.9999], f32))[0])  # room for float32

    @property
    def last_time(self) -> float:
        return float(self.time(np.array([self.sigma_max * 1.0001], f32))[0])


class EDMEulerScheduler(Preconditioned):
    """First order, deterministic: x' = x0 + (sigma' / sigma) (x - x0)."""

    def grid(self, n: int, sigmas: Custom = None) -> Grid:
        """Custom sigmas are the levels to start steps from. (The reference takes places on its curve for them.)"""
        if sigmas is None:
            sigmas = self.levels(n, np.linspace(0, 1, n))
        sigmas = sigmas.astype(f32)
        return self.through(sigmas, sigmas[-1] if self.final_sigmas_type == "sigma_min" else 0.0)

    def build(
        self, grid: Grid, s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = math.inf, s_noise: float = 1.0
    ) -> Table:
        return euler(grid, self.read, s_churn, s_tmin, s_tmax, s_noise)


class EDMMultistep(Preconditioned):
    """Abstract. DPM-Solver++ (see dpm_multistep.py)."""

    aliases: ClassVar = {"solver_type": DPMSolverMultistepScheduler.aliases["solver_type"]}

    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False

    def grid(self, n: int) -> Grid:
        last = self.sigma_min if self.final_sigmas_type == "sigma_min" else 0.0
        return self.through(self.levels(n, linspace(0, 1, n)), last)

    def solve(self, grid: Grid, algorithm_type: str) -> Table:
        """The solver with this class's keys."""
        solver = DPMSolverMultistepScheduler.from_config({**vars(self), "algorithm_type": algorithm_type})
        return solver.build_with(grid, self.read)


class EDMDPMSolverMultistepScheduler(Thresholding, EDMMultistep):
    """As an ODE or an SDE."""

    aliases: ClassVar = DPMSolverMultistepScheduler.aliases

    solver_order: Literal[1, 2, 3] = 2
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"

    def problems(self) -> Iterable[str]:
        if self.algorithm_type == "sde-dpmsolver++" and self.solver_order == 3:
            yield "sde-dpmsolver++ has no order 3 here: set solver_order to 2"

    def build(self, grid: Grid) -> Table:
        return self.solve(grid, self.algorithm_type)


class CosineDPMSolverMultistepScheduler(EDMMultistep):
    """As an SDE, whose noise is one Brownian path in sigma, with times on an arc (Stable Audio Open, arXiv:2407.14358).
    The path has the image's seed."""

    sigma_min: float = 0.3
    sigma_max: float = 500
    sigma_data: float = 1.0
    sigma_schedule: Literal["karras", "exponential"] = "exponential"
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    solver_order: Literal[1, 2] = 2

    def time(self, sigma: np.ndarray) -> np.ndarray:  # [n] f32 -> [n] f32
        return np.arctan(sigma) / f32(math.pi) * f32(2)

    def sigma_of(self, t: np.ndarray) -> np.ndarray:  # [B] f64 -> [B] f64
        return np.tan(t * math.pi / 2)

    def build(self, grid: Grid) -> Table:
        between = np.array([(at.sigma, to.sigma) for at, to in grid])
        path = Path(float(f32(self.sigma_min)), float(f32(self.sigma_max)))
        return replace(self.solve(grid, "sde-dpmsolver++"), between=between, path=path)
