"""DPM-Solver, multistep (arXiv:2211.01095, algorithm 2), forwards and backwards. The formula is in dpm.py."""

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np

from diffrt.schedulers.dpm import DPMSolver, differences
from diffrt.schedulers.grid import Custom, Grid, Node
from diffrt.schedulers.solver import order_at
from diffrt.schedulers.table import Rows, Table


class Multistep(DPMSolver):
    """Abstract. One evaluation per step and up to two past predictions. solver_order 3 is the reference's, whose D2
    is half of what order 3 needs: the error falls with the square of the step, as for 2, with a smaller constant."""

    euler_at_final: bool = False

    def build(self, grid: Grid) -> Table:
        return self.build_with(grid, lambda rows, at: self.predictions(rows, at, self.data, self.thresholding))

    def build_with(self, grid: Grid, predictions: Callable[[Rows, Node], tuple[np.ndarray, ...]]) -> Table:
        """The method for a network that is read another way: (x0, y, what the formula reads)."""
        rows = Rows("x", *(f"y{j}" for j in range(1, self.solver_order)))
        x, *past = rows.slots
        nodes = grid.distinct().at
        short = self.lower_order_final and len(grid) + grid.skipped < 15
        ends_at_one = self.euler_at_final or grid.to[-1].sigma == 0  # only order 1 steps to zero noise
        for k, (at, to) in enumerate(grid):
            x0, reads, y = predictions(rows, at)
            order = order_at(k, len(grid), self.solver_order, short, ends_at_one)
            lams = [node.lam for node in nodes[k::-1][:order]]
            d = differences([y, *past], lams, to.lam - at.lam)
            x_next = self.advance(x, rows.z, at, to, d)
            rows.add(k, at, y=reads, x0=x0, then=[x_next, y, *past][: self.solver_order])
        return rows.table(grid, **self.shape())


class DPMSolverMultistepScheduler(Multistep):
    """DPM-Solver and DPM-Solver++, multistep, order 1 to 3, as an ODE or an SDE."""

    use_lu_lambdas: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    rescale_betas_zero_snr: bool = False
    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential"] = "exponential"

    def grid(self, n: int, timesteps: Custom = None, mu: float | None = None) -> Grid:
        return self.forward_grid(n, timesteps, mu)

    def rounds_times(self) -> bool:
        return (self.use_karras_sigmas or self.use_lu_lambdas) and self.beta_schedule != "squaredcos_cap_v2"


class DPMSolverMultistepInverseScheduler(Multistep):
    """DPM-Solver's steps upwards, from a picture to the noise that it comes from. As the inversion of DDIM
    (arXiv:2010.02502, section 4.3). Deterministic only, and not for flows."""

    def problems(self) -> Iterable[str]:
        yield from super().problems()
        if self.algorithm_type.startswith("sde"):
            yield f"{self.algorithm_type} adds noise of its own: an inversion needs dpmsolver++ or dpmsolver"
        if self.use_flow_sigmas:
            yield "inversion has no flow levels: set use_flow_sigmas to False"

    def grid(self, n: int) -> Grid:
        train = self.train_sigmas
        times = self.training_times(n, end="first")[::-1]
        times, sigmas = self.levels(n, times, np.empty(0), (float(train[-1]), float(train[0])))
        top = sigmas[-1] if self.respacing() else train[self.usable - 1]
        return self.through(times, np.append(sigmas, top))
