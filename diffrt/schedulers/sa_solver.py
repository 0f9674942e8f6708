"""SA-Solver: Xue et al. 2023 (arXiv:2309.05019), section 5 and algorithm 1.

An exponential Adams predictor and corrector of the reverse SDE whose noise is scaled by tau; tau = 0 is the ODE. The
noise of a step is integrated exactly, and the corrector of a step goes with the same draw.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from diffrt.schedulers.exponential import weights
from diffrt.schedulers.grid import Grid, Node
from diffrt.schedulers.solver import Solver
from diffrt.schedulers.table import Rows, Table, combined


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
    lower_order_final: bool = True
    lambda_min_clipped: float = -math.inf
    variance_type: str | None = None

    def grid(self, n: int) -> Grid:
        return self.forward_grid(n)

    @staticmethod
    def tau(at: Node) -> float:
        """The reference's default: noise in the middle of the way."""
        return 1.0 if 200 <= at.t <= 800 else 0.0

    def build(self, grid: Grid) -> Table:
        # ahead: where the step before leads by the outputs that were there. The newest one corrects it.
        remembered = max(self.predictor_order - 1, self.corrector_order - 2)
        rows = Rows("x", "ahead", *(f"y{j}" for j in range(1, remembered + 1)))
        x, ahead, *past = rows.slots
        data = self.algorithm_type == "data_prediction"
        nodes, n, newest = grid.distinct().at, len(grid), 0.0
        for k, (at, to) in enumerate(grid):
            x0, reads, y = self.predictions(rows, at, data, self.thresholding)
            x = ahead + newest * y if k else rows.x
            left = n - k if self.lower_order_final else n
            order = min(self.predictor_order, k + 1, left)
            c, b = self._scales(at, to)
            moved = c * x + b * rows.z
            x_next = moved + combined(self._weights(at, to, nodes[k::-1][:order]), (y, *past))
            ahead_next = 0 * x
            if k + 1 < n:
                order = min(self.corrector_order, k + 2, left + 1)
                newest, *others = self._weights(at, to, nodes[k + 1 :: -1][:order])
                ahead_next = moved + combined(others, (y, *past))
            rows.add(k, at, y=reads, x0=x0, then=[x_next, ahead_next, y, *past][: len(rows.slots)])
        return rows.table(grid, **self.shape())

    def _scales(self, at: Node, to: Node) -> tuple[float, float]:
        """What x and the noise are multiplied by, in a step from one node to another."""
        h, tau = to.lam - at.lam, self.tau(at)
        if self.algorithm_type == "data_prediction":
            return to.sigma / at.sigma * math.exp(-(tau**2) * h), to.sigma * math.sqrt(-math.expm1(-2 * tau**2 * h))
        return to.alpha / at.alpha, to.sigma * tau * math.sqrt(math.expm1(2 * h))

    def _weights(self, at: Node, to: Node, nodes: Sequence[Node]) -> list[float]:
        """And the outputs made at these nodes."""
        lams, tau = [node.lam for node in nodes], self.tau(at)
        if self.algorithm_type == "data_prediction":
            return [to.alpha * w for w in weights(lams, at.lam, to.lam, 1 + tau**2, "bh1")]
        return [(1 + tau**2) * to.sigma * w for w in weights(lams, at.lam, to.lam, -1)]
