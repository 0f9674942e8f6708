"""The stepping shell: diffusers' loop idiom over a table, for people who write their own loop.

s = scheduler.stepper(20)
x = noise * s.init_noise_sigma
for t in s.timesteps:
    x = s.step(model(s.scale_model_input(x, t), t), t, x).prev_sample
"""

from typing import NamedTuple

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.grid import Grid
from diffrt.schedulers.table import Table, apply_row, denoised, init_slots


class StepOutput(NamedTuple):
    prev_sample: np.ndarray  # [B, ...] what the next evaluation starts from
    pred_original_sample: np.ndarray  # [B, ...] the clean picture the model saw


class Stepper:
    """One run through a table. It remembers its place and its slots; make a new one for a new run.

    timesteps [E] f32, one per model evaluation; sigmas [n + 1] f32, noise-to-signal ratios with that of the end.
    """

    def __init__(self, table: Table, grid: Grid) -> None:
        self.table = table
        self.timesteps = table.t.astype(np.float32)
        self.sigmas = grid.sigmas.astype(np.float32)
        self.init_noise_sigma = table.init_sigma
        self._i = 0
        self._slots: np.ndarray | None = None

    def scale_model_input(self, sample: np.ndarray, timestep: float) -> np.ndarray:  # [B, ...] -> [B, ...]
        """What the model must be given instead of the sample at this timestep."""
        return sample * sample.dtype.type(self.table.c_in[self._row(timestep)])

    def step(
        self, model_output: np.ndarray, timestep: float, sample: np.ndarray, noise: np.ndarray | None = None
    ) -> StepOutput:  # arrays of one shape [B, ...]
        """One evaluation. Raises InvalidArgument for timesteps out of order or missing noise."""
        i = self._row(timestep)
        slots = init_slots(self.table, sample) if self._slots is None else self._slots
        slots[0] = sample  # the caller may have edited it
        x0 = denoised(self.table, i, slots, model_output)
        self._slots = apply_row(self.table, i, slots, model_output, noise)
        self._i += 1
        return StepOutput(self._slots[0].copy(), x0)

    def _row(self, timestep: float) -> int:
        if self._i >= self.table.evals:
            raise InvalidArgument(f"all {self.table.evals} timesteps are done: make a new stepper for a new run")
        if float(timestep) != self.timesteps[self._i]:
            due = self.timesteps[self._i]
            raise InvalidArgument(f"got timestep {timestep}, {due:g} is next: visit .timesteps in order")
        return self._i
