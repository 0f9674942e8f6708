"""DPM-Solver, multistep (arXiv:2211.01095, algorithm 2), forwards and backwards. The formula is in dpm.py."""

from collections.abc import Iterable
from typing import Literal

import numpy as np

from diffrt.schedulers.dpm import DPMSolver
from diffrt.schedulers.exponential import Integrand, multistep
from diffrt.schedulers.grid import Grid
from diffrt.schedulers.onestep import Read
from diffrt.schedulers.solver import SHORT
from diffrt.tables.table import Table


class Multistep(DPMSolver):
    """Abstract. One evaluation per step and up to two past predictions. solver_order 3 is the reference's, whose D2
    is half of what order 3 needs: the error falls with the square of the step, as for 2, with a smaller constant."""

    euler_at_final: bool = False

    def build(self, grid: Grid) -> Table:
        return self.build_with(grid, self.read)

    def build_with(self, grid: Grid, read: Read) -> Table:
        """The method for a network that is read another way."""
        integrand = Integrand(read, self.data, self.thresholding)
        ends_at_one = self.euler_at_final or grid.to[-1].sigma == 0  # only order 1 steps to zero noise
        orders = self.orders(grid, self.solver_order, SHORT, ends_at_one)
        memory = self.solver_order - 1
        return multistep(grid, integrand, orders, None, memory, self.weigh, lambda at: self.tau, **self.shape())


class DPMSolverMultistepScheduler(Multistep):
    """DPM-Solver and DPM-Solver++, multistep, order 1 to 3, as an ODE or an SDE."""

    use_lu_lambdas: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    rescale_betas_zero_snr: bool = False
    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential"] = "exponential"

    def rounds_times(self) -> bool:
        return (self.use_karras_sigmas or self.use_lu_lambdas) and self.beta_schedule != "squaredcos_cap_v2"


class DPMSolverMultistepInverseScheduler(Multistep):
    """DPM-Solver's steps upwards, from a picture to the noise that it comes from. As the inversion of DDIM
    (arXiv:2010.02502, section 4.3). Deterministic only, and not for flows."""

    def problems(self) -> Iterable[str]:
        yield from super().problems()
        if self.tau:
            yield f"{self.algorithm_type} adds noise of its own: an inversion needs dpmsolver++ or dpmsolver"
        if self.use_flow_sigmas:
            yield "inversion has no flow levels: set use_flow_sigmas to False"

    def grid(self, n: int) -> Grid:  # type: ignore[override]  # it takes no options
        train = self.train_sigmas
        times = self.training_times(n, end="first")[::-1]
        times, sigmas = self.levels(times, np.empty(0), float(train[-1]), float(train[0]))
        top = sigmas[-1] if self.respacing() else train[self.usable - 1]
        return self.through(times, np.append(sigmas, top))
