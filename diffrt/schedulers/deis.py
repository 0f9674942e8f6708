"""DEIS: Zhang & Chen 2022 (arXiv:2204.13902), proposition 3, as Adams-Bashforth in log rho.

With rho = sigma / alpha = exp(-lambda), d(x / alpha) = eps d rho; eps is a polynomial in log rho through past outputs,
whose integral against d rho = rho d log rho is closed form (exponential.py).
"""

from typing import ClassVar, Literal

from diffrt.schedulers.exponential import multistep
from diffrt.schedulers.grid import Grid
from diffrt.schedulers.solver import SHORT, Solver
from diffrt.tables.table import Table


class DEISMultistepScheduler(Solver):
    """Exponential Adams-Bashforth in the noise prediction, of order 1 to 3."""

    aliases: ClassVar = {
        "algorithm_type": dict.fromkeys(("dpmsolver", "dpmsolver++"), "deis"),
        "solver_type": dict.fromkeys(("midpoint", "heun", "bh1", "bh2"), "logrho"),
    }

    solver_order: Literal[1, 2, 3] = 2
    algorithm_type: Literal["deis"] = "deis"
    solver_type: Literal["logrho"] = "logrho"
    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential"] = "exponential"

    def build(self, grid: Grid) -> Table:
        integrand, orders = self.integrand(False, self.thresholding), self.orders(grid, self.solver_order, SHORT)
        return multistep(grid, integrand, orders, memory=self.solver_order - 1, **self.shape())
