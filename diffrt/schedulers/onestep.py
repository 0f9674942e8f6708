"""Methods of one evaluation a step that keep nothing but x: all that a class of them says is the paper's update."""

from collections.abc import Callable
from typing import Any

from diffrt.schedulers.grid import Grid, Node
from diffrt.schedulers.rows import Form, Rows
from diffrt.tables.table import Table

Read = Callable[[Node, Form, Form], tuple[Form, Form]]  # (x0, eps) at a node, of x and m
Move = Callable[[Node, Node, Form, Form, Form, Form], Form]  # x' from one node to another, of x, y, eps and z


def one_step(grid: Grid, read: Read, move: Move, **how: Any) -> Table:
    """The table of such a method. y is x0 as it is shaped, eps the network's own; `how` as in Rows.table."""
    rows = Rows("x")
    for k, (at, to) in enumerate(grid):
        x0, eps = read(at, rows.x, rows.m)
        rows.add(k, at, y=x0, x0=x0, then=[move(at, to, rows.x, rows.y, eps, rows.z)])
    return rows.table(grid, **how)


def along(at: Node, to: Node, x: Form, y: Form, eps: Form, z: Form) -> Form:
    """DDIM's step without fresh noise (arXiv:2010.02502, eq. 12), which for a flow is Euler's."""
    return to.alpha * y + to.sigma * eps


def resampled(at: Node, to: Node, x: Form, y: Form, eps: Form, z: Form) -> Form:
    """To the picture, and back to the next level with fresh noise (arXiv:2303.01469, algorithm 1)."""
    return to.alpha * y + to.sigma * z
