"""The stepping shell: diffusers' loop idiom over a table, for people who write their own loop.

s = scheduler.stepper(20)
x = noise * s.init_noise_sigma
for t in s.timesteps:
    x = s.step(model(s.scale_model_input(x, t), t), t, x, noise=randn(x.shape)).prev_sample
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.tables.running import Slots, apply_row, denoised, init_slots
from diffrt.tables.table import Table


class StepOutput:
    """What a step gives. The preview is made when it is first asked for, of the arrays that the step was given."""

    def __init__(self, prev_sample: np.ndarray, preview: Callable[[], np.ndarray | None]) -> None:
        self.prev_sample = prev_sample  # [B, ...] what the next evaluation starts from
        self._preview = preview

    @cached_property
    def pred_original_sample(self) -> np.ndarray | None:  # [B, ...]
        """The clean picture the model saw, where it was called."""
        return self._preview()


class Stepper:
    """One run through a table. It remembers its place and its slots; make a new one for a new run.

    timesteps [E] f32, one per model evaluation; sigmas [n + 1] f32, the noise levels with that of the end.
    """

    def __init__(self, table: Table, sigmas: np.ndarray) -> None:
        self.table = table
        self.timesteps = table.t.astype(np.float32)
        self.sigmas = sigmas.astype(np.float32)
        self.init_noise_sigma = table.init_sigma
        self._i = 0
        self._past: Slots | None = None  # every slot but x

    def scale_model_input(self, sample: np.ndarray, timestep: float) -> np.ndarray:  # [B, ...] -> [B, ...]
        """What the model must be given instead of the sample at this timestep."""
        return sample * sample.dtype.type(self.table.c_in[self._row(timestep)])

    def step(
        self, model_output: np.ndarray | None, timestep: float, sample: np.ndarray, noise: np.ndarray | None = None
    ) -> StepOutput:  # arrays of one shape [B, ...]
        """One evaluation. model_output may be None where .table.calls has False, noise where .table.noisy has.
        Raises InvalidArgument for timesteps out of order, a missing output or missing noise."""
        i = self._row(timestep)
        past = init_slots(self.table, sample)[1:] if self._past is None else self._past
        slots = (sample, *past)
        after = apply_row(self.table, i, slots, model_output, noise)
        callers = [id(array) for array in (sample, model_output, noise, after[0])]
        self._past = tuple(slot.copy() if id(slot) in callers else slot for slot in after[1:])
        self._i += 1
        called = model_output if self.table.calls[i] else None
        return StepOutput(after[0], lambda: None if called is None else denoised(self.table, i, slots, called))

    def _row(self, timestep: float) -> int:
        if self._i >= self.table.evals:
            raise InvalidArgument(f"all {self.table.evals} timesteps are done: make a new stepper for a new run")
        if float(timestep) != self.timesteps[self._i]:
            due = self.timesteps[self._i]
            raise InvalidArgument(f"got timestep {timestep}, {due:g} is next: visit .timesteps in order")
        return self._i
