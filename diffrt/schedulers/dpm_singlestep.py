"""DPM-Solver, singlestep (arXiv:2206.00927, algorithms 1 and 2; arXiv:2211.01095, algorithm 1). The formula is in
dpm.py.

Steps come in groups of up to solver_order: each step of a group starts anew from where the group began, with one more
prediction, and so the last has the group's order. What the earlier ones arrive at only serves to be evaluated.
"""

from typing import Any, ClassVar, Literal

import numpy as np

from diffrt.schedulers.dpm import DPMSolver, differences
from diffrt.schedulers.exponential import coefficients, gap
from diffrt.schedulers.grid import Grid
from diffrt.schedulers.rows import Rows
from diffrt.tables.table import Table


class DPMSolverSinglestepScheduler(DPMSolver):
    """DPM-Solver and DPM-Solver++, singlestep, one evaluation per step.

    solver_order 3 is the paper's third order; "midpoint" takes the slope between the ends
    of a group there, which needs the group's steps to be alike."""

    # Not keys of this class.
    timestep_spacing: ClassVar = "linspace"  # type: ignore[misc]
    steps_offset: ClassVar = 0  # type: ignore[misc]

    algorithm_type: Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    lower_order_final: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential"] = "exponential"

    def build(self, grid: Grid) -> Table:
        return self._build(grid, self.group_orders(len(grid)))

    def build_after(self, grid: Grid, skip: int, **options: Any) -> Table:
        """As the reference does: the groups stay where they are in the whole run, and the first is cut short."""
        return self._build(grid.after(skip), self.group_orders(len(grid))[skip:])

    def _build(self, grid: Grid, orders: list[int]) -> Table:
        rows = Rows("x", *("base", "y1", "y2")[: self.solver_order if self.solver_order > 1 else 0])
        x, base, *past = rows.slots if self.solver_order > 1 else (rows.x, rows.x)
        nodes, integrand = grid.distinct().at, self.integrand(self.data, self.thresholding)
        for k, (at, to) in enumerate(grid):
            x0, reads, y = integrand.at(at, rows)
            order = min(orders[k], k + 1)
            start = x if order == 1 else base
            group = nodes[k - order + 1 : k + 1]
            c, a, rate, b = coefficients(group[0], to, self.data, self.tau)
            h = gap(group[0], to)
            move = self.integral(self._differences(order, [y, *past], group, h), h, rate)
            x_next = c * start + a * move + b * rows.z
            rows.add(k, at, y=reads, x0=x0, then=[x_next, start, y, *past][: len(rows.slots)])
        return rows.table(grid, **self.shape())

    def _differences(self, order: int, outputs: list[np.ndarray], group: Any, h: float) -> list[np.ndarray]:
        """D0, D1, D2 at the group's first node. Here D2 is h^2 y''."""
        y, lams = outputs[order - 1 :: -1], [node.lam for node in group]
        if order == 3 and self.solver_type == "midpoint":
            return [*differences(y[::2], lams[::2], h), 0 * y[0]]
        *lower, last = differences(y, lams, h)
        return [*lower, 2 * last if order == 3 else last]

    def group_orders(self, n: int) -> list[int]:
        """The order of each step: 1, 2, 3, 1, 2, 3, ... and so on. A last group that would be incomplete, or step to
        zero noise, gives way to shorter ones."""
        most, zero = self.solver_order, self.final_sigmas_type == "zero"
        if most == 1 or not (self.lower_order_final or zero or n % most):
            return [k % most + 1 for k in range(n)]
        if most == 2:
            tail = [1, 1] if n % 2 == 0 else [1]
        else:
            tail = ([1, 2, 1], [1], [1, 2])[n % 3]
        orders = [k % most + 1 for k in range(n - len(tail))] + tail
        return [*orders[:-1], 1] if zero else orders
