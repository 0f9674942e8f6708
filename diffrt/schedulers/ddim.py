"""DDIM: Song et al. 2020 (arXiv:2010.02502), equations 12 and 16, and its inversion (section 4.3)."""

import math
from collections.abc import Iterable
from typing import Literal

from diffrt.schedulers.base import Classic, Strided, Thresholding
from diffrt.schedulers.grid import Grid, Node, training_node
from diffrt.schedulers.onestep import along, one_step
from diffrt.schedulers.rows import Form
from diffrt.tables.table import Table


class DDIMScheduler(Thresholding, Classic, Strided):
    """Deterministic at eta = 0, ancestral (DDPM) at eta = 1. One evaluation per step, no memory."""

    def build(self, grid: Grid, eta: float = 0.0, use_clipped_model_output: bool = False) -> Table:
        def move(at: Node, to: Node, x: Form, y: Form, eps: Form, z: Form) -> Form:
            if use_clipped_model_output:
                eps = (x - at.alpha * y) / at.sigma
            direction, std = split_noise(at, to, eta)
            return to.alpha * y + direction * eps + std * z

        return one_step(grid, self.read, move, **self.shape())


def split_noise(at: Node, to: Node, eta: float) -> tuple[float, float]:
    """How much of the noise at `to` is the old (12) and how much is fresh (16)."""
    std = eta * to.sigma / at.sigma * math.sqrt(max(1 - (at.alpha / to.alpha) ** 2, 0))
    return math.sqrt(max(to.sigma**2 - std**2, 0)), std


class DDIMParallelScheduler(DDIMScheduler):
    """DDIM's own steps, one after another."""


class DDIMInverseScheduler(Classic):
    """From a picture to the noise that DDIM makes it from. A step leaves one stride below the time the model is told:
    the noise level of a run's start is that of the picture, none or that of training step 0 (set_alpha_to_one)."""

    set_alpha_to_one: bool = True
    timestep_spacing: Literal["leading", "trailing"] = "leading"

    def problems(self) -> Iterable[str]:
        if self.prediction_type == "sample" and self.set_alpha_to_one:
            yield "prediction_type sample says nothing about noise where there is none: set set_alpha_to_one to False"

    def grid(self, n: int) -> Grid:
        stride, abar = self.num_train_timesteps // n, self.abar()
        times = self.times(n)[::-1]
        to = [training_node(abar, t, self.set_alpha_to_one) for t in times]
        below = [training_node(abar, t - stride, self.set_alpha_to_one) for t in times]
        at = [Node(there.t, here.alpha, here.sigma) for here, there in zip(below, to, strict=True)]
        return Grid(tuple(at), tuple(to))

    def build(self, grid: Grid) -> Table:
        return one_step(grid, self.read, along, **self.shape())
