"""SA-Solver: Xue et al. 2023 (arXiv:2309.05019), section 5 and algorithm 1.

An exponential Adams predictor and corrector of the reverse SDE whose noise is scaled by tau; tau = 0 is the ODE. The
noise of a step is integrated exactly, and the corrector of a step goes with the same draw.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from diffrt.schedulers.exponential import weights
from diffrt.schedulers.grid import Grid, Node
from diffrt.schedulers.solver import Solver
from diffrt.schedulers.table import Rows, Table


@dataclass(frozen=True, kw_only=True)
class SASolverScheduler(Solver):
    """Stochastic Adams predictor and corrector of order 1 to 4, with noise in the middle of the way.

    The noise of each step is kept in a slot for its corrector."""

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
    lower_order_final: bool = True
    lambda_min_clipped: float = -math.inf
    variance_type: str | None = None

    def grid(self, num_inference_steps: int) -> Grid:
        n = num_inference_steps
        times, sigmas = self.levels(n, self.training_times(n), self.flow_levels(n, self.flow_shift))
        return self.through(times, np.append(sigmas, self.last_level(sigmas)))

    @staticmethod
    def tau(at: Node) -> float:
        """The reference's default: noise in the middle of the way."""
        return 1.0 if 200 <= at.t <= 800 else 0.0

    def build(self, grid: Grid) -> Table:
        remembered = max(self.predictor_order, self.corrector_order) - 1
        rows = Rows("x", "last", "noise", *(f"y{j}" for j in range(1, remembered + 1)))
        x, last, noise, *past = rows.slots
        data = self.algorithm_type == "data_prediction"
        nodes, n = grid.distinct().at, len(grid)
        for k, (at, to) in enumerate(grid):
            x0, reads, y = self.predictions(rows, at, data, self.thresholding)
            left = n - k if self.lower_order_final else n
            if k:
                order = min(self.corrector_order, k + 1, left + 2)
                x = self._step(last, nodes[k - 1], at, nodes[k::-1][:order], (y, *past), noise)
            order = min(self.predictor_order, k + 1, left)
            x_next = self._step(x, at, to, nodes[k::-1][:order], (y, *past), rows.z)
            rows.add(k, at, y=reads, x0=x0, then=[x_next, x, rows.z, y, *past][: len(rows.slots)])
            x = rows.x
        return rows.table(grid, threshold=self.threshold)

    def _step(
        self,
        x: np.ndarray,
        at: Node,
        to: Node,
        nodes: Sequence[Node],
        outputs: Sequence[np.ndarray],
        z: np.ndarray,
    ) -> np.ndarray:
        """From one node to another, with the outputs that were made at these nodes and the noise z."""
        lams, h, tau = [node.lam for node in nodes], to.lam - at.lam, self.tau(at)
        if self.algorithm_type == "data_prediction":
            c, a, b = to.sigma / at.sigma * math.exp(-(tau**2) * h), to.alpha, math.sqrt(-math.expm1(-2 * tau**2 * h))
            parts = weights(lams, at.lam, to.lam, 1 + tau**2, "bh1")
        else:
            c, a, b = to.alpha / at.alpha, (1 + tau**2) * to.sigma, tau * math.sqrt(math.expm1(2 * h))
            parts = weights(lams, at.lam, to.lam, -1)
        return c * x + a * sum(w * output for w, output in zip(parts, outputs, strict=False)) + to.sigma * b * z
