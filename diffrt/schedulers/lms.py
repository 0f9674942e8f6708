"""Linear multistep in sigma, for dx/dsigma = eps (Karras et al. 2022, arXiv:2206.00364, eq. 1): Adams-Bashforth
on a non-uniform grid (Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, III.5)."""

from typing import Any

import numpy as np

from diffrt.schedulers.base import Exploding, Respacing
from diffrt.schedulers.exponential import lagrange
from diffrt.schedulers.grid import Grid
from diffrt.schedulers.rows import Rows, combined
from diffrt.tables.table import Table

ORDER = 4


class LMSDiscreteScheduler(Respacing, Exploding):
    """Order 4 in past noise predictions, rising from order 1 at the start."""

    def build(self, grid: Grid) -> Table:
        rows = Rows("x", *(f"y{j}" for j in range(1, ORDER)))
        x, *past = rows.slots
        sigmas = grid.distinct().sigmas
        for k, (at, _) in enumerate(grid):
            x0, eps = self.read(at, rows.x, rows.m)
            outputs = [rows.y, *past]
            x_next = x + combined(adams(sigmas[k::-1][:ORDER], sigmas[k + 1]), outputs)
            rows.add(k, at, y=eps, x0=x0, then=[x_next, *outputs[:-1]])
        return rows.table(grid)

    def build_after(self, grid: Grid, skip: int, **options: Any) -> Table:
        """As the reference does: at full order from the first step, with zeros for the outputs there are not."""
        return self.build(grid).after(skip)


def adams(nodes: np.ndarray, to: float) -> list[float]:
    """Weights w such that sum_j w_j f(nodes[j]) is the integral of f from nodes[0] to `to` for every polynomial of
    degree below len(nodes): the integrals of the Lagrange polynomials. Nodes newest first.

    In u = (sigma - nodes[0]) / h every root is <= 0 and the interval is [0, 1], so that no digits cancel.
    """
    h = to - nodes[0]
    return [float(weight) for weight in h * lagrange((nodes - nodes[0]) / h) @ (1 / np.arange(1, len(nodes) + 1))]
