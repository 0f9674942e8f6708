"""Samplers of distilled models, in a few steps over the times that the distillation visited.

LCM: Luo et al. 2023 (arXiv:2310.04378), algorithm 3 and equation 9, with the boundary condition of Song et al. 2023
(arXiv:2303.01469, eq. 5). TCD: Zheng et al. 2024 (arXiv:2402.19159), algorithm 4.
"""

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.base import Classic, Thresholding
from diffrt.schedulers.betas import f32
from diffrt.schedulers.config import allows
from diffrt.schedulers.grid import Custom, Grid, Node, training_node, vp_node
from diffrt.schedulers.onestep import along, one_step
from diffrt.schedulers.rows import Form
from diffrt.tables.table import Table

SIGMA_DATA = 0.5


class Distilled(Thresholding, Classic):
    """Abstract. The model was taught original_inference_steps of the training times; a run visits some of those."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    original_inference_steps: int = 50
    clip_sample: bool = False
    set_alpha_to_one: bool = True
    timestep_scaling: float = 10.0

    def problems(self) -> Iterable[str]:
        steps, most = self.original_inference_steps, self.num_train_timesteps
        if steps > most:
            yield f"original_inference_steps = {steps}, allowed: 1 to {most} (num_train_timesteps)"

    def taught(self, steps: int, strength: float) -> np.ndarray:  # [m] i64, ascending
        """The times of a distillation in so many steps, of which a strength below 1 keeps the lowest."""
        if not allows(float, strength) or not 0 < strength <= 1:
            raise InvalidArgument(f"strength = {strength!r}, allowed: above 0, at most 1")
        if not allows(int, steps) or not 1 <= steps <= self.num_train_timesteps:
            raise InvalidArgument(f"original_inference_steps = {steps!r}, allowed: 1 to {self.num_train_timesteps}")
        return np.arange(1, int(steps * strength) + 1) * (self.num_train_timesteps // steps) - 1

    def nodes(self, n: int, times: Custom, taught: np.ndarray, strength: float, most: int | None = None) -> list[Node]:
        """Those of custom times, or of n even steps down the taught ones."""
        if times is not None and strength != 1:
            raise InvalidArgument(f"strength = {strength!r} and timesteps: give the timesteps of that part alone")
        if times is None:
            most = len(taught) if most is None else min(most, len(taught))
            if n > most:
                raise InvalidArgument(
                    f"num_inference_steps = {n}, allowed: up to {most}, the distillation's (times strength)"
                )
            times = taught[::-1][np.linspace(0, len(taught), n, endpoint=False).astype(int)]
        abar = self.abar()
        return [training_node(abar, t, True) for t in np.trunc(times)]


class LCMScheduler(Distilled):
    """Few steps of a latent consistency model: to the picture, and back to the next time with fresh noise. The last
    step keeps the picture. Options: custom timesteps, original_inference_steps in place of the key's, and strength
    (the share of the taught times, from the lowest, that a run visits)."""

    def grid(
        self, n: int, timesteps: Custom = None, original_inference_steps: int | None = None, strength: float = 1.0
    ) -> Grid:
        original = self.original_inference_steps if original_inference_steps is None else original_inference_steps
        nodes = self.nodes(n, timesteps, self.taught(original, strength), strength)
        return Grid.through([*nodes, vp_node(0, 1.0)])

    def build(self, grid: Grid) -> Table:
        def move(at: Node, to: Node, x: Form, y: Form, eps: Form, z: Form) -> Form:
            # arXiv:2303.01469 eq. 5: the identity at t = 0, and all but x0 itself soon after.
            scaled = at.t * self.timestep_scaling
            norm = math.hypot(scaled, SIGMA_DATA)
            picture = (SIGMA_DATA / norm) ** 2 * x + scaled / norm * y
            return to.alpha * picture + to.sigma * z

        return one_step(grid, self.read, move, **self.shape())


class TCDScheduler(Distilled):
    """Few steps of a trajectory consistency model: to a time below the next one, and up to that with fresh noise. The
    lower time is (1 - eta) t' (eta is the paper's gamma); the last step arrives at 0. It never clips.

    Options: custom timesteps, strength, and original_inference_steps: where that is given, it only limits the number
    of steps, which are then spread over all training times."""

    def grid(
        self, n: int, timesteps: Custom = None, original_inference_steps: int | None = None, strength: float = 1.0
    ) -> Grid:
        own = original_inference_steps is None
        taught = self.taught(self.original_inference_steps if own else self.num_train_timesteps, strength)
        nodes = self.nodes(n, timesteps, taught, strength, original_inference_steps)
        return Grid.through([*nodes, vp_node(0, self.abar()[0])])

    def build(self, grid: Grid, eta: float = 0.3) -> Table:
        abar = self.abar()

        def move(at: Node, to: Node, x: Form, y: Form, eps: Form, z: Form) -> Form:
            s = vp_node(to.t, abar[int(f32(1 - eta) * f32(to.t))])
            kept = to.alpha / s.alpha
            return kept * along(at, s, x, y, eps, z) + math.sqrt(max(1 - kept**2, 0)) * z

        return one_step(grid, self.read, move)
