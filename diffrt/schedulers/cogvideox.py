"""The two schedulers of CogVideoX (Yang et al. 2024, arXiv:2408.06072): DDIM and DPM-Solver++ on shifted levels.

The signal-to-noise ratio of every training step is divided by snr_shift_scale (Hoogeboom et al. 2023,
arXiv:2301.11093, eq. 4, as a factor); zero terminal SNR is made after that. Neither clips, whatever clip_sample says.
"""

import math
from typing import Literal

import numpy as np

from diffrt.schedulers.base import Classic, Strided
from diffrt.schedulers.betas import alphas_cumprod, zero_terminal
from diffrt.schedulers.dpm_multistep import DPMSolverMultistepScheduler
from diffrt.schedulers.grid import Grid
from diffrt.schedulers.onestep import along, one_step
from diffrt.tables.table import Table


class CogVideoX(Classic, Strided):
    """Abstract: the levels."""

    beta_start: float = 0.00085
    beta_end: float = 0.0120
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    sample_max_value: float = 1.0
    snr_shift_scale: float = 3.0

    def abar(self) -> np.ndarray:  # [T] f32, of scaled_linear f64
        n, trained = self.num_train_timesteps, self.trained_betas
        a = alphas_cumprod(n, self.beta_start, self.beta_end, self.beta_schedule, trained)
        if self.beta_schedule == "scaled_linear" and trained is None:
            a = np.cumprod(1 - np.linspace(math.sqrt(self.beta_start), math.sqrt(self.beta_end), n) ** 2)
        a = a / (self.snr_shift_scale + (1 - self.snr_shift_scale) * a)
        return zero_terminal(a) if self.rescale_betas_zero_snr else a


class CogVideoXDDIMScheduler(CogVideoX):
    """First order, deterministic (arXiv:2010.02502, equation 12)."""

    def build(self, grid: Grid) -> Table:
        return one_step(grid, self.read, along)


class CogVideoXDPMScheduler(CogVideoX):
    """SDE-DPM-Solver++(2M) (arXiv:2211.01095, section 5): one evaluation per step and the x0 of the step before. The
    first step and one to the end of the schedule are of first order."""

    def build(self, grid: Grid) -> Table:
        ends = grid.to[-1].t < 0
        solver = DPMSolverMultistepScheduler(
            algorithm_type="sde-dpmsolver++", lower_order_final=False, euler_at_final=ends
        )
        return solver.build_with(grid, self.read)
