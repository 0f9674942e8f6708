"""UniPC: Zhao et al. 2023 (arXiv:2302.04867), theorem 3.1 (UniC) and corollary 3.2 (UniP), multistep.

UniP is an Adams-Bashforth and UniC an Adams-Moulton method of the exponential integrals of exponential.py: the paper's
B(h) cancels out of their solution but where two outputs meet, whose slope it weighs with B(h) / 2.
"""

from collections.abc import Iterable
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.exponential import multistep, weights
from diffrt.schedulers.grid import Custom, Grid
from diffrt.schedulers.shifting import shifted, stretched
from diffrt.schedulers.solver import Solver
from diffrt.tables.table import Table


class UniPCMultistepScheduler(Solver):
    """A predictor of order 1 to 3, and a corrector of one order more at no further evaluation.

    The output at the predicted x also corrects the step that led there. disable_corrector lists the steps that are
    left as they are.
    """

    aliases: ClassVar = {"solver_type": dict.fromkeys(("midpoint", "heun", "logrho"), "bh2")}
    flow_respacings: ClassVar = ("use_karras_sigmas",)

    solver_order: Literal[1, 2, 3] = 2
    predict_x0: bool = True
    solver_type: Literal["bh1", "bh2"] = "bh2"
    disable_corrector: tuple[int, ...] = ()
    solver_p: Literal[None] = None  # another predictor: an object, which no config can hold
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    rescale_betas_zero_snr: bool = False
    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    sigma_min: float | None = None
    sigma_max: float | None = None
    shift_terminal: float | None = None

    def problems(self) -> Iterable[str]:
        yield from super().problems()
        if self.final_sigmas_type == "zero" and not self.predict_x0:
            yield "predict_x0 False cannot step to zero noise: set final_sigmas_type to sigma_min"
        if self.use_flow_sigmas and not self.predict_x0:
            yield "a flow needs predict_x0 True: it starts where eps says nothing about the picture"
        if self.shift_terminal is not None and not self.use_flow_sigmas:
            yield "shift_terminal needs use_flow_sigmas: set it to True"

    def grid(self, n: int, sigmas: Custom = None, mu: float | None = None) -> Grid:
        if sigmas is not None:
            if not self.use_flow_sigmas:
                raise InvalidArgument("sigmas are for flows: set use_flow_sigmas, or leave them out")
            if self.respacing():
                raise InvalidArgument("sigmas cannot be chosen where they are re-spaced: give only one")
            if sigmas[0] > 1:
                raise InvalidArgument(f"sigmas begin at {sigmas[0]:g}, allowed: at most 1")
        flow = self._flow(n, sigmas, mu) if self.use_flow_sigmas else np.empty(0)
        times, sigmas = self.levels(self.training_times(n), flow, self.sigma_min, self.sigma_max)
        if sigmas[0] < sigmas[-1]:
            raise InvalidArgument(f"sigma_min = {sigmas[-1]:g} must be below sigma_max = {sigmas[0]:g}")
        end = self.last_level(sigmas) if self.final_sigmas_type == "sigma_min" else 0
        return self.through(times, np.append(sigmas, end))

    def _flow(self, n: int, sigmas: Custom, mu: float | None) -> np.ndarray:  # [n] f64
        """Those sigmas, or as many equal steps from 1, shifted. It starts a little below 1: lambda must be finite."""
        if sigmas is None:
            sigmas = np.linspace(1, 1 / self.num_train_timesteps, n + 1)[:-1]
        if mu is None and self.use_dynamic_shifting:
            raise InvalidArgument("use_dynamic_shifting needs mu, from the size of the picture: give it")
        sigmas = shifted(sigmas, self.shift(mu))
        if self.shift_terminal:
            sigmas = stretched(sigmas, self.shift_terminal)
        return np.append(sigmas[0] - 1e-6 if abs(sigmas[0] - 1) < 1e-6 else sigmas[0], sigmas[1:])

    def build(self, grid: Grid) -> Table:
        data, to_zero = self.predict_x0, grid.to[-1].sigma == 0  # where only order 1 steps
        predictor = self.orders(grid, self.solver_order, ends_at_one=to_zero)
        corrector = [0 if k + grid.skipped in self.disable_corrector else p + 1 for k, p in enumerate(predictor)]
        integrand, how = self.integrand(data, False), self.shape() if data else {}
        memory, weigh = self.solver_order - 1, partial(weights, half=self.solver_type)
        return multistep(grid, integrand, predictor, [*corrector[:-1], 0], memory, weigh, **how)
