"""From a formula to a table's rows."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from diffrt.schedulers.grid import Grid, Node
from diffrt.tables.table import COLUMNS, OPTIONAL, Table

Form = np.ndarray  # [S + 3] f64, what something is of [slots; y; m; z]
Pair = tuple[float, float] | None


class Rows:
    """Builds a table by running a sampler's formula once on unit vectors: with `slots`, `x`, `y`, `m` and `z` in their
    places, the value of the paper's formula is the row."""

    def __init__(self, *slots: str) -> None:
        units = np.eye(len(slots) + 3)
        self.names = slots
        self.slots = tuple(units[: len(slots)])
        self.x = units[0]
        self.y, self.m, self.z = units[-3:]
        self._rows: list[tuple] = []

    def add(
        self, step: int, at: Node, y: Form, x0: Form, then: Sequence[Form], between: Pair = None, log_std: Pair = None
    ) -> None:
        """One evaluation at a node: y and x0 as forms in x and m, then the next value of every slot. `between` and
        `log_std` as in Table, in every row or in none."""
        columns = (at.t, at.alpha, at.sigma, at.c_in, y[0], y[-2], x0[0], x0[-2], np.stack(then))
        self._rows.append((step, *columns, between, log_std))

    def add_noise(self, step: int, at: Node, then: Sequence[Form]) -> None:
        """A row that calls no model, from a node on."""
        self.add(step, at, 0 * self.x, 0 * self.x, then)

    def table(self, grid: Grid, **how: Any) -> Table:
        """`how`: clip, threshold, spread and path of Table."""
        step, *columns = zip(*self._rows, strict=True)
        filled = [None if column[0] is None else np.array(column) for column in columns]
        rows: dict = dict(zip((*COLUMNS, *OPTIONAL), filled, strict=True))
        return Table(self.names, **rows, step_of=np.array(step), init_sigma=grid.init_sigma, **how)


def combined(weights: Iterable[float], outputs: Iterable[np.ndarray]) -> np.ndarray:
    """The weighted sum of the first of them, as many as there are weights."""
    return sum((w * y for w, y in zip(weights, outputs, strict=False)), np.zeros(()))
