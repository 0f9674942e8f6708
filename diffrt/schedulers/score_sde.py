"""Reverse diffusion of score SDEs: Song et al. 2020 (arXiv:2011.13456), equation 6 with the discretisation of
appendix E, predictors of algorithms 2 (variance exploding) and 3 (variance preserving)."""

import math
from collections.abc import Iterable
from functools import partial
from typing import ClassVar

import numpy as np

from diffrt.schedulers.base import Scheduler
from diffrt.schedulers.betas import f32, linspace
from diffrt.schedulers.grid import Grid, Node, vp_node
from diffrt.schedulers.onestep import one_step
from diffrt.schedulers.prediction import predict
from diffrt.schedulers.rows import Form
from diffrt.tables.table import Table


class ScoreSdeVeScheduler(Scheduler):
    """Reverse diffusion of x = x0 + sigma eps by a score model that is told sigma. The last step adds no noise.

    The corrector's step depends on what the network says, which a table cannot: pipelines run `correct` correct_steps
    times before each row, with the network's output for the same time, and so does whoever writes their own loop.
    """

    num_train_timesteps: int = 2000
    snr: float = 0.15
    sigma_min: float = 0.01
    sigma_max: float = 1348.0
    sampling_eps: float = 1e-5
    correct_steps: int = 1

    @property
    def last_time(self) -> float:
        return self.sigma_max

    def marginal(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.ones_like(t), t

    def grid(self, n: int) -> Grid:
        low, high = self.sigma_min, self.sigma_max
        times = linspace(1, self.sampling_eps, n)
        told = f32(low) * f32(high / low) ** times
        # In float64, and then rounded, as torch's float32 exp mostly is; [-1] is below the first.
        train = np.append(np.exp(linspace(math.log(low), math.log(high), n).astype(float)).astype(f32), 0)
        index = (times * f32(n - 1)).astype(int)
        at = tuple(Node(float(t), 1.0, float(train[i])) for t, i in zip(told, index, strict=True))
        return Grid(at, tuple(Node(0.0, 1.0, float(train[i - 1])) for i in index), high)

    def build(self, grid: Grid) -> Table:
        def read(at: Node, x: Form, score: Form) -> tuple[Form, Form]:
            return x + at.sigma**2 * score, -at.sigma * score

        def move(at: Node, to: Node, x: Form, y: Form, eps: Form, z: Form) -> Form:
            fall = at.sigma**2 - to.sigma**2
            noise = 0.0 if at is grid.at[-1] else math.sqrt(fall)
            return x - fall / at.sigma * eps + noise * z

        return one_step(grid, read, move)

    def correct(self, x: np.ndarray, score: np.ndarray, noise: np.ndarray) -> np.ndarray:  # all [B, ...]
        """One step of annealed Langevin dynamics at a fixed level (algorithm 4), as long as snr and the mean norms of
        score and noise over the batch say."""
        norms = [np.linalg.norm(a.reshape(len(a), -1), axis=1).mean() for a in (noise, score)]
        step = x.dtype.type(2 * (self.snr * norms[0] / norms[1]) ** 2)
        return x + step * score + np.sqrt(2 * step) * noise


class ScoreSdeVpScheduler(Scheduler):
    """Euler-Maruyama steps of 1 / n over times from 1 to 0, by a model of the noise. The last step adds none."""

    last_time: ClassVar[float] = 1.0

    num_train_timesteps: int = 2000
    beta_min: float = 0.1
    beta_max: float = 20
    sampling_eps: float = 1e-3

    def problems(self) -> Iterable[str]:
        if not 0 < self.beta_min <= self.beta_max:
            yield f"beta_min = {self.beta_min:g}, allowed: above 0 and at most beta_max = {self.beta_max:g}"

    def marginal(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (33)
        log_alpha = -(t**2) * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2
        return np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))

    def grid(self, n: int) -> Grid:
        times = linspace(1, self.sampling_eps, n).astype(float)
        nodes = [Node(*map(float, node)) for node in zip(times, *self.marginal(times), strict=True)]
        return Grid.through([*nodes, vp_node(0, 1.0)])

    def build(self, grid: Grid) -> Table:
        dt = 1 / (len(grid) + grid.skipped)

        def move(at: Node, to: Node, x: Form, y: Form, eps: Form, z: Form) -> Form:
            beta = self.beta_min + at.t * (self.beta_max - self.beta_min)
            mean = (1 + beta * dt / 2) * x - beta * dt / at.sigma * eps
            return mean + (math.sqrt(beta * dt) * z if to.sigma else 0)

        return one_step(grid, partial(predict, "epsilon"), move)
