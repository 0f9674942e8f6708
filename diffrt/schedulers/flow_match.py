"""Samplers of flow models: x = (1 - sigma) x0 + sigma eps, and the network tells the flow eps - x0, which is dx/dsigma.

Rectified flow: Liu et al. 2022 (arXiv:2209.03003, eq. 1); its shifted levels: Esser et al. 2024 (arXiv:2403.03206,
eq. 23). The model is told num_train_timesteps times sigma.
"""

import math
from collections.abc import Iterable
from functools import partial
from operator import attrgetter
from typing import Literal

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.base import Respacing, Scheduler
from diffrt.schedulers.betas import f32
from diffrt.schedulers.grid import Custom, Grid, Node
from diffrt.schedulers.onestep import along, one_step, resampled
from diffrt.schedulers.prediction import predict
from diffrt.schedulers.rows import Form
from diffrt.schedulers.shifting import flow_node, shifted, stretched, time_shifted
from diffrt.schedulers.two_stage import heun
from diffrt.tables.table import Table


def flow_grid(times: np.ndarray, sigmas: np.ndarray) -> Grid:  # [n], [n + 1]
    """Through these levels, told these times."""
    if sigmas.max() > 1 + 1e-6:  # a shift may round the last one up
        raise InvalidArgument(f"the noise level {sigmas.max():g} is above 1: give smaller sigmas or timesteps")
    nodes = [flow_node(t, sigma) for t, sigma in zip((*times, 0.0), sigmas, strict=True)]
    return Grid.through(nodes, level=attrgetter("sigma"))


flow = partial(predict, "flow_prediction")


def inverted(at: Node, x: Form, m: Form) -> tuple[Form, Form]:
    """Of a network that tells x0 - eps."""
    return flow(at, x, -m)


class FlowTime(Scheduler):
    """Abstract. Training time is num_train_timesteps times sigma, up to num_train_timesteps itself."""

    num_train_timesteps: int = 1000

    @property
    def last_time(self) -> float:
        return self.num_train_timesteps

    def marginal(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sigma = t / self.num_train_timesteps
        return (sigma, 1 - sigma) if getattr(self, "invert_sigmas", False) else (1 - sigma, sigma)

    def evenly(self, n: int, shift: float) -> np.ndarray:  # [n] f64
        """From the highest training level to the lowest, 1 / num_train_timesteps, both of them shifted."""
        T = self.num_train_timesteps
        high, low = shifted(np.array([T, 1], f32) / T, shift)
        return np.linspace(float(high) * T, float(low) * T, n) / T


class ShiftedFlow(Respacing, FlowTime):
    """Abstract. Levels that are shifted, stretched and re-spaced, in this order. Options: custom sigmas, which are
    shifted as well; custom timesteps, which tell the model another time than that of its level where there is a
    shift; both; and mu, which use_dynamic_shifting needs."""

    shift: float = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float | None = 0.5
    max_shift: float | None = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    invert_sigmas: bool = False
    shift_terminal: float | None = None
    time_shift_type: Literal["exponential", "linear"] = "exponential"

    def grid(self, n: int, timesteps: Custom = None, sigmas: Custom = None, mu: float | None = None) -> Grid:
        T, dynamic = self.num_train_timesteps, self.use_dynamic_shifting
        if (mu is not None) != dynamic:
            raise InvalidArgument(f"mu = {mu!r}: it is needed with use_dynamic_shifting and refused without")
        levels: np.ndarray
        if sigmas is not None:
            levels = sigmas.astype(f32)
        elif timesteps is not None:
            levels = timesteps.astype(f32) / T
        else:
            levels = self.evenly(n, 1.0 if dynamic else self.shift)
        levels = shifted(levels, self.shift) if mu is None else time_shifted(levels, mu, self.time_shift_type)
        if self.shift_terminal:
            if levels[-1] == 1:
                raise InvalidArgument("shift_terminal moves the last level, which is the first: take 2 or more steps")
            levels = stretched(levels, self.shift_terminal)
        if respace := self.respacing():
            levels = respace(float(levels[-1]), float(levels[0]), len(levels))
        levels = levels.astype(f32)
        if not self.invert_sigmas:
            return flow_grid(levels * T if timesteps is None else timesteps.astype(f32), np.append(levels, 0))
        # Time is how much picture there is, and the network tells x0 - eps.
        nodes = [Node(float(level * T), float(level), 1 - float(level)) for level in (*(1 - levels), f32(1))]
        return Grid.through(nodes, level=attrgetter("alpha"))


class FlowMatchEulerDiscreteScheduler(ShiftedFlow):
    """First order along the flow; with stochastic_sampling, as FlowMatchLCM."""

    stochastic_sampling: bool = False

    def problems(self) -> Iterable[str]:
        if self.stochastic_sampling and self.invert_sigmas:
            yield "stochastic_sampling is not defined for inverted levels: set invert_sigmas to False"

    def build(self, grid: Grid) -> Table:
        read = inverted if self.invert_sigmas else flow
        return one_step(grid, read, resampled if self.stochastic_sampling else along)


class FlowMatchLCMScheduler(ShiftedFlow):
    """Few steps of a flow's consistency model: to the picture, and back to the next level with fresh noise. Algorithm
    3 of Luo et al. 2023 (arXiv:2310.04378), for flows."""

    scale_factors: tuple[float, ...] | None = None
    upscale_mode: Literal["nearest", "linear", "bilinear", "bicubic", "trilinear", "area", "nearest-exact"] = "bicubic"

    def problems(self) -> Iterable[str]:
        if self.scale_factors:
            yield "scale_factors enlarge the latents between steps, which a table cannot: set it to None"
        if self.invert_sigmas:
            yield "its step is not defined for inverted levels: set invert_sigmas to False"

    def build(self, grid: Grid) -> Table:
        return one_step(grid, flow, resampled)


class FlowMatchHeunDiscreteScheduler(FlowTime):
    """Second order: the mean of the flows at both ends of a step. Algorithm 1 of Karras et al. 2022
    (arXiv:2206.00364) without its churn, in sigma of the flow; the last step, to no noise, is Euler's."""

    shift: float = 1.0

    def grid(self, n: int) -> Grid:
        levels = shifted(self.evenly(n, self.shift), self.shift).astype(f32)
        return flow_grid(levels * self.num_train_timesteps, np.append(levels, 0))

    def build(self, grid: Grid) -> Table:
        return heun(grid, flow)


class FlowMapEulerDiscreteScheduler(FlowTime):
    """First order along the mean flow from each time t to the next, r, which a flow map tells. Boffi et al. 2024
    (arXiv:2406.07507). A table tells the network t alone; r is the t of the next row, and 0 in the last: what wraps
    the network must look it up in table.t. Options: custom sigmas or timesteps, both of which are shifted."""

    shift: float = 1.0

    def grid(self, n: int, timesteps: Custom = None, sigmas: Custom = None) -> Grid:
        if sigmas is None:
            even = np.linspace(1, 0, n + 1)[:-1]
            sigmas = even if timesteps is None else timesteps / self.num_train_timesteps
        levels = shifted(sigmas, self.shift)
        return flow_grid(levels * self.num_train_timesteps, np.append(levels, 0))

    def build(self, grid: Grid) -> Table:
        return one_step(grid, flow, along)


class LTXEulerAncestralRFScheduler(FlowTime):
    """First order along the flow, below the next level and up to it with fresh noise. That is ancestral Euler (Song et
    al. 2020, arXiv:2010.02502, eq. 16) for a flow; eta is how far below.

    A config's keys of FlowMatchEulerDiscreteScheduler, and the option mu, shape its levels as they shape that one's.
    Custom sigmas are used as they are, and the last of them is the level arrived at."""

    eta: float = 1.0
    s_noise: float = 1.0

    def problems(self) -> Iterable[str]:
        if not self.s_noise:
            yield "s_noise = 0 would leave less noise than the levels say: set eta to 0 to add none"

    def grid(self, n: int, sigmas: Custom = None, mu: float | None = None) -> Grid:
        if sigmas is None:
            return FlowMatchEulerDiscreteScheduler.from_config(self.config).grid(n, mu=mu)
        if len(sigmas) < 2:
            raise InvalidArgument("one of sigmas, allowed: two or more, the last being the end, mostly 0")
        levels = sigmas.astype(f32)
        return flow_grid(levels[:-1] * self.num_train_timesteps, levels)

    def build(self, grid: Grid) -> Table:
        def move(at: Node, to: Node, x: Form, y: Form, eps: Form, z: Form) -> Form:
            down = to.sigma * (1 + (to.sigma / at.sigma - 1) * self.eta)
            kept = to.alpha / (1 - down)
            up = math.sqrt(max(to.sigma**2 - (kept * down) ** 2, 0))
            return kept * (y + down / at.sigma * (x - y)) + self.s_noise * up * z

        return one_step(grid, flow, move)
