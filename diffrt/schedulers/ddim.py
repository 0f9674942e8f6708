"""DDIM: Song et al. 2020 (arXiv:2010.02502), equations 12 and 16, and its inversion (section 4.3)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from diffrt.schedulers.base import DiscreteTime
from diffrt.schedulers.grid import Grid, Node, strided_grid, training_node
from diffrt.schedulers.prediction import predict
from diffrt.schedulers.table import Rows, Table


@dataclass(frozen=True, kw_only=True)
class DDIM(DiscreteTime):
    """Abstract: DDIM under both its names."""

    terminal_abar: ClassVar[float] = 0.0  # alpha = 0 is no trouble here

    clip_sample: bool = True
    set_alpha_to_one: bool = True
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    clip_sample_range: float = 1.0
    sample_max_value: float = 1.0
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading"
    rescale_betas_zero_snr: bool = False

    def grid(self, num_inference_steps: int) -> Grid:
        stride = self.num_train_timesteps // num_inference_steps
        times = np.round(self.times(num_inference_steps))
        return strided_grid(self.abar(), times, stride, self.set_alpha_to_one)

    def build(self, grid: Grid, eta: float = 0.0, use_clipped_model_output: bool = False) -> Table:
        rows = Rows("x")
        for k, (at, to) in enumerate(grid):
            x0, eps = predict(self.prediction_type, at, rows.x, rows.m)
            # Where y = x0 is clipped, eps stays the network's own: it is a form in x and m, not in y.
            if use_clipped_model_output:
                eps = (rows.x - at.alpha * rows.y) / at.sigma
            direction, std = split_noise(at, to, eta)
            x_next = to.alpha * rows.y + direction * eps + std * rows.z
            rows.add(k, at, y=x0, x0=x0, then=[x_next])
        return rows.table(grid, **self.shape())


def split_noise(at: Node, to: Node, eta: float) -> tuple[float, float]:
    """How much of the noise at `to` is the old (12) and how much is fresh (16)."""
    std = eta * to.sigma / at.sigma * math.sqrt(max(1 - (at.alpha / to.alpha) ** 2, 0))
    return math.sqrt(max(to.sigma**2 - std**2, 0)), std


class DDIMScheduler(DDIM):
    """Deterministic at eta = 0, ancestral (DDPM) at eta = 1. One evaluation per step, no memory."""


class DDIMParallelScheduler(DDIM):
    """DDIM's own steps, one after another."""


@dataclass(frozen=True, kw_only=True)
class DDIMInverseScheduler(DiscreteTime):
    """From a picture to the noise that DDIM makes it from. A step leaves one stride below the time the model is told:
    the noise level of a run's start is that of the picture, none or that of training step 0 (set_alpha_to_one)."""

    terminal_abar: ClassVar[float] = 0.0

    clip_sample: bool = True
    set_alpha_to_one: bool = True
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    clip_sample_range: float = 1.0
    timestep_spacing: Literal["leading", "trailing"] = "leading"
    rescale_betas_zero_snr: bool = False

    def problems(self) -> Iterable[str]:
        if self.prediction_type == "sample" and self.set_alpha_to_one:
            yield "prediction_type sample says nothing about noise where there is none: set set_alpha_to_one to False"

    def grid(self, num_inference_steps: int) -> Grid:
        stride, abar = self.num_train_timesteps // num_inference_steps, self.abar()
        times = self.times(num_inference_steps)[::-1]
        to = [training_node(abar, t, self.set_alpha_to_one) for t in times]
        below = [training_node(abar, t - stride, self.set_alpha_to_one) for t in times]
        at = [Node(there.t, here.alpha, here.sigma) for here, there in zip(below, to, strict=True)]
        return Grid(tuple(at), tuple(to))

    def build(self, grid: Grid) -> Table:
        rows = Rows("x")
        for k, (at, to) in enumerate(grid):
            x0, eps = predict(self.prediction_type, at, rows.x, rows.m)
            rows.add(k, at, y=x0, x0=x0, then=[to.alpha * rows.y + to.sigma * eps])
        return rows.table(grid, clip=self.clip_sample_range if self.clip_sample else None)
