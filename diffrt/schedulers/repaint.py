"""RePaint: Lugmayr et al. 2022 (arXiv:2201.09865), algorithm 1, with steps of DDIM (arXiv:2010.02502, eq. 12 and 16).

A run goes down in time and, again and again, back up by fresh noise, so that what is drawn comes to fit what is
known. The table holds that walk; the mask and the known picture are the business of denoise's `settle`, as in
tasks/inpaint.py. To follow the reference, settle(i, x) puts the known part back after every row i that calls the model
(table.calls), as `noised(table, i + 1, picture, z)` with the z that noise(i) drew, or with a draw of its own at
eta = 0; after the last row, the picture itself.
"""

import math
from dataclasses import replace
from typing import Literal

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.base import Betas
from diffrt.schedulers.betas import betas_of
from diffrt.schedulers.ddim import split_noise
from diffrt.schedulers.grid import Grid, Node, training_node
from diffrt.schedulers.prediction import predict
from diffrt.schedulers.rows import Rows
from diffrt.tables.table import Table


class RePaintScheduler(Betas):
    """DDIM that goes back up in time and draws again, around what is known. A step down is one evaluation, a step up
    one row of fresh noise for each training step in it. Both count as steps of the run, so that a table has more than
    num_inference_steps of them."""

    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear"  # type: ignore[assignment]
    eta: float = 0.0
    clip_sample: bool = True

    def grid(self, n: int, jump_length: int = 10, jump_n_sample: int = 10) -> Grid:
        """Down from the last of n times to the first; on the way, at every jump_length-th, back up
        as many steps and down again, jump_n_sample - 1 times. The betas of a step up are those of one stride too late,
        as in the reference: where a stride is more than one training step, x comes back noisier than the model is told.
        Nodes of a step up have the level that x has, and the times of those betas."""
        for name, value in (("jump_length", jump_length), ("jump_n_sample", jump_n_sample)):
            if value < 1:
                raise InvalidArgument(f"{name} = {value}, allowed: from 1")
        abar, betas = self.abar(), betas_of(*self.schedule())
        stride = self.num_train_timesteps // n
        jumps = {j: jump_n_sample - 1 for j in range(0, n - jump_length, jump_length)}
        steps: list[tuple[Node, Node]] = []
        k = n
        while k > 0:
            k -= 1
            here = training_node(abar, (k - 1) * stride, True)
            steps.append((training_node(abar, k * stride, True), here))
            if not jumps.get(k, 0):
                continue
            jumps[k] -= 1
            for _ in range(jump_length):
                first, k = k * stride, k + 1
                alpha = here.alpha * math.sqrt(np.prod(1 - betas[first : k * stride].astype(np.float64)))
                above = Node(float(k * stride), alpha, math.sqrt(1 - alpha**2))
                steps.append((replace(here, t=float(first)), above))
                here = above
        at, to = zip(*steps, strict=True)
        return Grid(at, to)

    def build(self, grid: Grid) -> Table:
        rows, betas = Rows("x"), betas_of(*self.schedule()).astype(np.float64)
        for k, (at, to) in enumerate(grid):
            if to.t > at.t:
                alpha = at.alpha
                for t in range(int(at.t), int(to.t)):
                    node = Node(float(t), alpha, math.sqrt(1 - alpha**2))
                    kept = math.sqrt(1 - betas[t])
                    rows.add_noise(k, node, [kept * rows.x + math.sqrt(betas[t]) * rows.z])
                    alpha *= kept
                continue
            x0, eps = predict("epsilon", at, rows.x, rows.m)
            direction, std = split_noise(at, to, self.eta)
            rows.add(k, at, y=x0, x0=x0, then=[to.alpha * rows.y + direction * eps + std * rows.z])
        return rows.table(grid, **self.shape())
