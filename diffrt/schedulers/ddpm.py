"""DDPM: Ho et al. 2020 (arXiv:2006.11239). A step draws from the posterior of the forward chain, eq. 6 and 7:

    q(x' | x, x0) = N(a x0 + b x, var)

with var, or beta, or what the network says in its place (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.base import Classic, Scheduler, Thresholding, Trained
from diffrt.schedulers.betas import alphas_cumprod, betas_of, linspace
from diffrt.schedulers.grid import Custom, Grid, Node, training_node, vp_node, whole
from diffrt.schedulers.onestep import one_step
from diffrt.schedulers.prediction import predict
from diffrt.schedulers.rows import Form, Rows
from diffrt.tables.table import Table

SPREADS: dict[str, Literal["variance", "range"]] = {"learned": "variance", "learned_range": "range"}


@dataclass(frozen=True)
class Posterior:
    """Of x' given x and x0, between two levels of one chain; beta is the variance of x given x'."""

    a: float
    b: float
    var: float
    beta: float

    @classmethod
    def between(cls, at: Node, to: Node, beta: float | None = None) -> "Posterior":
        """`beta` where the chain itself gives it, else from the two levels."""
        beta = 1 - (at.alpha / to.alpha) ** 2 if beta is None else beta
        rest = (1 - to.alpha**2) / at.sigma**2
        return cls(to.alpha * beta / at.sigma**2, math.sqrt(1 - beta) * rest, rest * beta, beta)

    def std(self, variance_type: str) -> float:
        """What z is multiplied by; a learned width comes on top of that."""
        if variance_type in SPREADS:
            return 1.0
        return math.sqrt(max(self.beta if variance_type.startswith("fixed_large") else self.var, 0))

    def log_std(self, variance_type: str) -> tuple[float, float] | None:
        """The range of a learned width: of the posterior, which is 0 where a run ends, and of beta."""
        if variance_type != "learned_range":
            return None
        return math.log(max(self.var, 1e-20)) / 2, math.log(max(self.beta, 1e-20)) / 2


def ancestral(
    scheduler: "DDPMScheduler | UnCLIPScheduler", grid: Grid, betas: Sequence[float | None]
) -> Table:  # betas: [n], None where a step leaves out training steps
    """y = x0. A step from training time 0 adds no noise."""
    rows, kind = Rows("x"), scheduler.variance_type
    for k, (at, to) in enumerate(grid):
        x0, _ = predict(scheduler.prediction_type, at, rows.x, rows.m)
        q = Posterior.between(at, to, betas[k])
        x_next = q.a * rows.y + q.b * rows.x + (q.std(kind) if at.t > 0 else 0) * rows.z
        rows.add(k, at, y=x0, x0=x0, then=[x_next], log_std=q.log_std(kind))
    return rows.table(grid, **scheduler.shape(), spread=SPREADS.get(kind))


class DDPMScheduler(Thresholding, Classic):
    """First order, stochastic. With a learned variance the network must put out twice the channels; for "learned" the
    second half is the variance itself."""

    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"] = "linear"  # type: ignore[assignment]  # more of them than others have
    variance_type: Literal[
        "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"
    ] = "fixed_small"

    def grid(self, n: int, timesteps: Custom = None) -> Grid:
        times = np.round(self.times(n)) if timesteps is None else whole(timesteps)
        return Grid.through([training_node(self.abar(), t, True) for t in (*times, -1)])

    def build(self, grid: Grid) -> Table:
        return ancestral(self, grid, [None] * len(grid))


class DDPMParallelScheduler(DDPMScheduler):
    """DDPM's own steps, one after another."""


class UnCLIPScheduler(Trained):
    """DDPM for unCLIP (arXiv:2204.06125), from the last training time to the first. A step of one training step takes
    that one's own beta: float32 levels so near to each other keep but three digits of it."""

    variance_type: Literal["fixed_small_log", "learned_range"] = "fixed_small_log"
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
    beta_schedule: Literal["squaredcos_cap_v2"] = "squaredcos_cap_v2"

    def abar(self) -> np.ndarray:  # [T] f32
        return alphas_cumprod(self.num_train_timesteps, 0, 0, self.beta_schedule)

    def grid(self, n: int) -> Grid:
        if n == 1:
            last = self.num_train_timesteps
            raise InvalidArgument(f"num_inference_steps = 1, allowed: 2 to {last}, from the last time to the first")
        stride = (self.num_train_timesteps - 1) / (n - 1)
        times = np.round(np.arange(n) * stride)[::-1]
        return Grid.through([training_node(self.abar(), t, True) for t in (*times, -1)])

    def build(self, grid: Grid) -> Table:
        train = betas_of(self.num_train_timesteps, 0, 0, self.beta_schedule)
        return ancestral(self, grid, [float(train[int(at.t)]) if to.t == at.t - 1 else None for at, to in grid])


class DDPMWuerstchenScheduler(Scheduler):
    """DDPM over times from 1 to 0 on a cosine schedule (arXiv:2306.00637). The model predicts the noise. Custom
    timesteps name where the run ends, too: the last of them is only arrived at."""

    last_time: ClassVar[float] = 1.0

    scaler: float = 1.0
    s: float = 0.008

    def abar(self, t: np.ndarray) -> np.ndarray:  # [B] f64 -> [B] f64
        """arXiv:2102.09672 eq. 17 over a time bent by `scaler`."""
        t = 1 - (1 - t) ** self.scaler if self.scaler > 1 else t**self.scaler
        start, here = (np.cos((u + self.s) / (1 + self.s) * math.pi / 2) ** 2 for u in (0, t))
        return np.clip(here / start, 0.0001, 0.9999)

    def grid(self, n: int, timesteps: Custom = None) -> Grid:
        times = linspace(1, 0, n + 1) if timesteps is None else timesteps
        if len(times) < 2:
            raise InvalidArgument("one of timesteps, allowed: two or more, the last being the end")
        nodes = [vp_node(t, abar) for t, abar in zip(times, self.abar(times.astype(np.float64)), strict=True)]
        if times[-1] == 0:  # where the step to 0 arrives at: the posterior's mean, though there is some noise at 0
            last, end = nodes[-2:]
            nodes[-1] = replace(end, sigma=Posterior.between(last, end).b * last.sigma)
        return Grid.through(nodes)

    def build(self, grid: Grid) -> Table:
        def move(at: Node, to: Node, x: Form, y: Form, eps: Form, z: Form) -> Form:
            q = Posterior.between(at, to)
            return q.a * y + q.b * x + (math.sqrt(q.var) if to.t > 0 else 0) * z

        return one_step(grid, partial(predict, "epsilon"), move)

    def marginal(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        abar = self.abar(t)
        return np.sqrt(abar), np.sqrt(1 - abar)
