"""DEIS: Zhang & Chen 2022 (arXiv:2204.13902), proposition 3, as Adams-Bashforth in log rho.

With rho = sigma / alpha = exp(-lambda), d(x / alpha) = eps d rho; eps is a polynomial in log rho through past outputs,
whose integral against d rho = rho d log rho is closed form (exponential.py).
"""

from typing import ClassVar, Literal

from diffrt.schedulers.exponential import weights
from diffrt.schedulers.grid import Grid
from diffrt.schedulers.solver import Solver, order_at
from diffrt.schedulers.table import Rows, Table, combined


class DEISMultistepScheduler(Solver):
    """Exponential Adams-Bashforth in the noise prediction, of order 1 to 3."""

    aliases: ClassVar = {
        "algorithm_type": dict.fromkeys(("dpmsolver", "dpmsolver++"), "deis"),
        "solver_type": dict.fromkeys(("midpoint", "heun", "bh1", "bh2"), "logrho"),
    }

    solver_order: Literal[1, 2, 3] = 2
    algorithm_type: Literal["deis"] = "deis"
    solver_type: Literal["logrho"] = "logrho"
    lower_order_final: bool = True
    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential"] = "exponential"

    def grid(self, n: int, mu: float | None = None) -> Grid:
        return self.forward_grid(n, mu=mu)

    def build(self, grid: Grid) -> Table:
        rows = Rows("x", *(f"y{j}" for j in range(1, self.solver_order)))
        x, *past = rows.slots
        nodes = grid.distinct().at
        short = self.lower_order_final and len(grid) + grid.skipped < 15
        for k, (at, to) in enumerate(grid):
            x0, reads, y = self.predictions(rows, at, False, self.thresholding)
            lams = [node.lam for node in nodes[k::-1][: order_at(k, len(grid), self.solver_order, short, False)]]
            move = combined(weights(lams, at.lam, to.lam, -1), (y, *past))
            x_next = to.alpha / at.alpha * x + to.sigma * move
            rows.add(k, at, y=reads, x0=x0, then=[x_next, y, *past][: self.solver_order])
        return rows.table(grid, **self.shape())
