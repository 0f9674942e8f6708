"""DDIM: Song et al. 2020 (arXiv:2010.02502), equations 12 and 16."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from diffrt.schedulers.base import DiscreteTime
from diffrt.schedulers.grid import Grid, strided_grid
from diffrt.schedulers.prediction import predict
from diffrt.schedulers.table import Rows, Table, Threshold


@dataclass(frozen=True, kw_only=True)
class DDIMScheduler(DiscreteTime):
    """Deterministic at eta = 0, ancestral (DDPM) at eta = 1. One evaluation per step, no memory."""

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

    def build(self, grid: Grid, eta: float = 0.0) -> Table:
        rows = Rows("x")
        for k, (at, to) in enumerate(grid):
            x0, eps = predict(self.prediction_type, at, rows.x, rows.m)
            std = eta * to.sigma / at.sigma * math.sqrt(max(1 - (at.alpha / to.alpha) ** 2, 0))  # (16)
            direction = math.sqrt(max(to.sigma**2 - std**2, 0))
            # (12). Where y = x0 is clipped, eps stays the network's own: it is a form in x and m, not in y.
            x_next = to.alpha * rows.y + direction * eps + std * rows.z
            rows.add(k, at, y=x0, x0=x0, then=[x_next])
        if self.thresholding:
            return rows.table(grid, threshold=Threshold(self.dynamic_thresholding_ratio, self.sample_max_value))
        return rows.table(grid, clip=self.clip_sample_range if self.clip_sample else None)
