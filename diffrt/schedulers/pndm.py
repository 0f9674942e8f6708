"""PNDM: Liu et al. 2022 (arXiv:2202.09778), equations 9, 12 and 13: classical methods whose move is DDIM's.

The network's outputs are averaged *raw*, and only the average is read as a noise prediction, at the node its
step starts from: under v-prediction that is another method than one with a history of noise predictions.
"""

import math
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.base import Scheduler, Strided
from diffrt.schedulers.betas import f32, linspace
from diffrt.schedulers.grid import Grid, Node, training_node
from diffrt.schedulers.prediction import predict
from diffrt.schedulers.rows import Rows, combined
from diffrt.tables.table import Table

# Adams-Bashforth weights by the number of outputs there are, newest first (12).
ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


class PNDMScheduler(Strided):
    """Linear multistep over four outputs. It starts with three Runge-Kutta steps of four evaluations each, or,
    with skip_prk_steps (PLMS), with one step that is predicted and corrected and then with fewer outputs."""

    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading"

    def build(self, grid: Grid) -> Table:
        return self._build(grid)

    def build_after(self, grid: Grid, skip: int, **options: Any) -> Table:
        """Runge-Kutta begins anew at the step. PLMS does as the reference does: it skips as many *evaluations*, of
        which the second step has two, so that from its third on it is told times one step ahead of its latents."""
        return self._build(grid, skip) if self.skip_prk_steps else self._build(grid.after(skip))

    def _build(self, grid: Grid, skip: int = 0) -> Table:
        rows = Rows("x", "base", "e1", "e2", "e3", *(() if self.skip_prk_steps else ("sum",)))
        x, base, e1, e2, e3, *rest = rows.slots
        m, none = rows.m, 0 * rows.m
        total = rest[0] if rest else none
        stride = grid.at[0].t - grid.to[0].t

        def node(t: float) -> Node:
            return training_node(self.abar(), t, self.set_alpha_to_one)

        def move(x: np.ndarray, out: np.ndarray, at: Node, to: Node) -> np.ndarray:  # (9)
            x0, eps = self.read(at, x, out)
            return to.alpha * x0 + to.sigma * eps

        def add(step: int, at: Node, *then: np.ndarray) -> None:
            x0, _ = self.read(at, x, m)
            rows.add(step, at, y=m, x0=x0, then=then[: len(rows.slots)])

        steps = list(grid)
        if self.skip_prk_steps:
            (at, to), *steps = [*steps[:2], *steps[1:]][skip:]
            add(0, at, move(x, m, at, to), x, m, e1, e2, none)
            if steps:  # the same step again, with the mean of the outputs at both of its ends
                (end, _), *steps = steps
                add(0, end, move(base, (m + e1) / 2, node(end.t + stride), end), none, e1, e2, e3, none)
            outputs = done = 1
        else:
            if len(steps) < 4:
                raise InvalidArgument(f"{len(steps)} steps, allowed: 4 or more, for Runge-Kutta; or set skip_prk_steps")
            for k, (at, _) in enumerate(steps[:3]):  # (13)
                to = grid.at[k + 1]
                half = stride // 2
                middle = node(to.t + half)
                add(k, at, move(x, m, at, node(at.t - half)), x, m, e1, e2, m / 6)
                add(k, middle, move(base, m, at, middle), base, e1, e2, e3, total + m / 3)
                add(k, middle, move(base, m, at, to), base, e1, e2, e3, total + m / 3)
                add(k, to, move(base, total + m / 6, at, to), none, e1, e2, e3, none)
            steps = steps[3:]
            outputs = done = 3
        for k, (at, to) in enumerate(steps, done):
            outputs = min(outputs + 1, 4)
            mean = combined(ADAMS[outputs - 1], (m, e1, e2, e3))
            add(k, at, move(x, mean, at, to), none, m, e1, e2, none)
        return rows.table(grid)


class IPNDMScheduler(Scheduler):
    """Linear multistep over four noise predictions, of models of v at times from 1 to 0. The levels are those of
    Crowson's v-diffusion: sigma = sin(pi / 2 s)^2 at even s, and time is the angle of (alpha, sigma) over pi / 2;
    trained_betas replace the sigmas. The first step starts from noise alone and takes the picture for 0. Order 2, as
    theorem 3.2 says."""

    last_time: ClassVar[float] = 1.0

    num_train_timesteps: int = 1000
    trained_betas: tuple[float, ...] | None = None

    def problems(self) -> Iterable[str]:
        if self.trained_betas is not None and not all(0 <= beta <= 1 for beta in self.trained_betas):
            yield "trained_betas are noise levels here, allowed: from 0 to 1"

    def marginal(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.cos(t * math.pi / 2), np.sin(t * math.pi / 2)

    def grid(self, n: int) -> Grid:
        even = np.square(np.sin(linspace(1, 0, n + 1) * f32(math.pi / 2)))
        sigmas = even if self.trained_betas is None else np.array(self.trained_betas, f32)
        if len(sigmas) != n + 1:
            raise InvalidArgument(f"num_inference_steps = {n}: trained_betas have {len(sigmas) - 1}")
        alphas = np.sqrt(1 - sigmas**2)
        times = np.arctan2(sigmas, alphas) / f32(math.pi) * 2
        levels = zip(times.tolist(), sigmas.tolist(), strict=True)
        return Grid.through([Node(t, math.sqrt(1 - sigma**2), sigma) for t, sigma in levels])

    def build(self, grid: Grid) -> Table:
        rows = Rows("x", "e1", "e2", "e3")
        x, *past = rows.slots
        for k, (at, to) in enumerate(grid):
            x0, _ = predict("v_prediction", at, x, rows.m)
            eps = at.sigma * x + at.alpha * rows.m
            mean = combined(ADAMS[min(k, 3)], (eps, *past))
            picture = (x - at.sigma * mean) / max(at.alpha, 1e-8)
            rows.add(k, at, y=x0, x0=x0, then=[to.alpha * picture + to.sigma * mean, eps, *past[:2]])
        return rows.table(grid)
