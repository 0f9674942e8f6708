"""Two evaluations a step, in x = x0 + sigma eps: the methods of k-diffusion (Crowson 2022).

    Heun            Karras et al. 2022 (arXiv:2206.00364), algorithm 1: the mean of the slopes at both ends
    KDPM2           DPM-Solver-2 (Lu et al. 2022, arXiv:2206.00927, algorithm 1) in sigma: the slope in the middle
    KDPM2Ancestral  the same to a level below, then up with fresh noise
    DPMSolverSDE    DPM-Solver++ as an SDE (Lu et al. 2022, arXiv:2211.01095, section 5): x0 in the middle

The middle of a step is that of lambda = -log sigma. The slope dx/dsigma is (x - x0) / sigma. The last step, to zero
noise, is one of Euler, with one evaluation.

Image-to-image: the reference leaves out evaluations in pairs, which are steps; so is it here.
"""

import math
from typing import Any, ClassVar, Literal

import numpy as np

from diffrt.schedulers.base import Exploding, Respacing
from diffrt.schedulers.betas import f32, sigmas_of
from diffrt.schedulers.euler import ancestral
from diffrt.schedulers.grid import Grid, Node, time_of, ve_node
from diffrt.schedulers.onestep import Read
from diffrt.schedulers.rows import Rows
from diffrt.tables.table import Path, Table


class TwoStage(Respacing, Exploding):
    """Abstract. The keys that all of them have."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"

    def node(self, sigma: float, in_float32: float) -> Node:
        """The node of a level between those of the grid, with the time of what the reference makes of it."""
        t = time_of(np.array([in_float32]), sigmas_of(self.abar()))
        return ve_node(float(f32(t[0])), sigma)


class HeunDiscreteScheduler(TwoStage):
    """Second order, deterministic."""

    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "exp"] = "linear"  # type: ignore[assignment]
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"  # type: ignore[assignment]
    clip_sample: bool = False
    clip_sample_range: float = 1.0

    def grid(self, n: int, timesteps: np.ndarray | None = None) -> Grid:
        return self.sigma_grid(self.times(n, timesteps))

    def build(self, grid: Grid) -> Table:
        return heun(grid, self.read, **self.shape())


def heun(grid: Grid, read: Read, **how: Any) -> Table:
    """Of VE nodes, or of a flow's, whose slope dx/dsigma = eps - x0 is the same of x and x0."""
    rows = Rows("x", "half")  # half: x after half a step of the first slope
    x, half = rows.slots
    for k, (at, to) in enumerate(grid):
        step = to.sigma - at.sigma
        x0, _ = read(at, x, rows.m)
        slope = (x - rows.y) / at.sigma
        rows.add(k, at, y=x0, x0=x0, then=[x + step * slope, x + step / 2 * slope if to.sigma else 0 * x])
        if to.sigma:
            x0, _ = read(to, x, rows.m)
            slope = (x - rows.y) / to.sigma
            rows.add(k, to, y=x0, x0=x0, then=[half + step / 2 * slope, 0 * x])
    return rows.table(grid, **how)


class KDPM2DiscreteScheduler(TwoStage):
    """Second order, deterministic."""

    noisy: ClassVar = False

    def grid(self, n: int) -> Grid:
        return self.sigma_grid(self.times(n), whole=self.use_karras_sigmas)

    def build(self, grid: Grid) -> Table:
        rows = Rows("x", "base")
        x, base = rows.slots
        for k, (at, to) in enumerate(grid):
            down, up = ancestral(at, to) if self.noisy else (to.sigma, 0.0)
            middle = self.node(math.sqrt(at.sigma * down), middle_in_float32(at, to, self.noisy))
            x0, _ = self.read(at, x, rows.m)
            slope = (x - rows.y) / at.sigma
            rows.add(k, at, y=x0, x0=x0, then=[x + (middle.sigma - at.sigma) * slope, x])
            if down:
                x0, _ = self.read(middle, x, rows.m)
                slope = (x - rows.y) / middle.sigma
                rows.add(k, middle, y=x0, x0=x0, then=[base + (down - at.sigma) * slope + up * rows.z, base])
        return rows.table(grid)


class KDPM2AncestralDiscreteScheduler(KDPM2DiscreteScheduler):
    """Stochastic: a second-order step below the next level, then up to it with fresh noise."""

    noisy = True


def middle_in_float32(at: Node, to: Node, noisy: bool) -> float:
    """The middle level of a step as the reference computes it, for the time that it tells the network. With noise it
    loses digits, where a step is long nearly all of them."""
    high, down = f32(at.sigma), f32(to.sigma)
    if noisy:
        up = np.sqrt(down**2 * (high**2 - down**2) / high**2)
        down = np.sqrt(max(down**2 - up**2, f32(0)))
    return math.sqrt(high * down)


class DPMSolverSDEScheduler(TwoStage):
    """Stochastic: both evaluations of a step add increments of one Brownian path in sigma. Its seed is
    noise_sampler_seed, or where that is None the image's own (the reference draws one at random)."""

    noise_sampler_seed: int | None = None

    def grid(self, n: int) -> Grid:
        return self.sigma_grid(self.times(n), rounded=False)

    def build(self, grid: Grid, s_noise: float = 1.0) -> Table:
        """s_noise multiplies the fresh noise."""
        rows = Rows("x", "base")
        x, base = rows.slots
        for k, (at, to) in enumerate(grid):
            start, half, end = readings(at, to)
            level = math.sqrt(at.sigma * to.sigma)
            middle = self.node(level, level)
            x0, _ = self.read(at, x, rows.m)
            down, up = ancestral(at, middle)
            x_next = rows.y + down / at.sigma * (x - rows.y) + s_noise * up * rows.z
            rows.add(k, at, y=x0, x0=x0, then=[x_next, x], between=(start, half))
            if to.sigma:
                x0, _ = self.read(middle, x, rows.m)
                down, up = ancestral(at, to)
                x_next = rows.y + down / at.sigma * (base - rows.y) + s_noise * up * rows.z
                rows.add(k, middle, y=x0, x0=x0, then=[x_next, base], between=(start, end))
        sigmas = grid.sigmas[:-1]
        return rows.table(grid, path=Path(float(sigmas.min()), float(sigmas.max()), self.noise_sampler_seed))

    def build_after(self, grid: Grid, skip: int, **options: Any) -> Table:
        """The Brownian path is that of the whole run."""
        return self.build(grid, **options).after(skip)


def readings(at: Node, to: Node) -> tuple[float, float, float]:
    """The start, middle and end of a step as the reference reads its path there: float32 exponentials of float32
    logarithms. A path differs visibly one float32 step further on. (torch rounds one exponential in a hundred the
    other way.)"""
    if not to.sigma:
        return at.sigma, 0.0, 0.0
    start, end = f32(math.log(at.sigma)), f32(math.log(to.sigma))
    middle = start + (end - start) * f32(0.5)
    a, b, c = (float(f32(math.exp(t))) for t in (start, middle, end))
    return a, b, c
