"""SA-Solver: Xue et al. 2023 (arXiv:2309.05019), section 5 and algorithm 1.

An exponential Adams predictor and corrector of the reverse SDE whose noise is scaled by tau; tau = 0 is the ODE. The
noise of a step is integrated exactly, and the corrector of a step goes with the same draw.
"""

import math
from functools import partial
from typing import ClassVar, Literal

from diffrt.schedulers.exponential import multistep, weights
from diffrt.schedulers.grid import Grid, Node
from diffrt.schedulers.solver import Solver
from diffrt.tables.table import Table


class SASolverScheduler(Solver):
    """Stochastic Adams predictor and corrector of order 1 to 4, with noise in the middle of the way."""

    aliases: ClassVar = {
        "algorithm_type": {
            **dict.fromkeys(("dpmsolver++", "sde-dpmsolver++", "deis"), "data_prediction"),
            **dict.fromkeys(("dpmsolver", "sde-dpmsolver"), "noise_prediction"),
        }
    }

    predictor_order: Literal[1, 2, 3, 4] = 2
    corrector_order: Literal[1, 2, 3, 4] = 2
    tau_func: Literal[None] = None  # a function in the reference, which no config can hold: see tau
    algorithm_type: Literal["data_prediction", "noise_prediction"] = "data_prediction"
    lambda_min_clipped: float = -math.inf
    variance_type: str | None = None

    @staticmethod
    def tau(at: Node) -> float:
        """The reference's default: noise in the middle of the way."""
        return 1.0 if 200 <= at.t <= 800 else 0.0

    def build(self, grid: Grid) -> Table:
        data = self.algorithm_type == "data_prediction"
        predictor = self.orders(grid, self.predictor_order)
        corrector = [1 + order for order in self.orders(grid, self.corrector_order - 1)[:-1]]
        integrand = self.integrand(data, self.thresholding)
        memory = max(self.predictor_order - 1, self.corrector_order - 2)
        weigh = partial(weights, half="bh1" if data else None)
        return multistep(grid, integrand, predictor, [*corrector, 0], memory, weigh, self.tau, **self.shape())
