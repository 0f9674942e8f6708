"""Consistency models: every step jumps to the picture, and back to the next noise level with fresh noise.

Song et al. 2023 (arXiv:2303.01469): algorithm 1, and the network's scaling of equation 5 and appendix C. Over a
variance-preserving schedule that is the decoder of DALL-E 3 (Betker et al. 2023). Its continuous-time kin sCM, over
x = cos t x0 + sin t eps: Lu & Song 2024 (arXiv:2410.11081, section 3).
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.base import Scheduler, Trained
from diffrt.schedulers.betas import alphas_cumprod, f32, linspace
from diffrt.schedulers.config import allows
from diffrt.schedulers.grid import Custom, Grid, Node, karras, training_node, ve_node, vp_node
from diffrt.schedulers.onestep import one_step, resampled
from diffrt.schedulers.rows import Form
from diffrt.tables.table import Table

TIME = 250.0  # time is this times log sigma
LAST_ANGLE = 1.5708


class CMStochasticIterativeScheduler(Scheduler):
    """Few steps of a consistency model: to the picture, and back to the next level with fresh noise. Here the picture
    is x at sigma_min. Option: custom timesteps, as numbers from num_train_timesteps - 1 to 0 of the levels of which
    that many make up the whole range; they are counted from the end, as the reference does: 0 is sigma_max."""

    num_train_timesteps: int = 40
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    s_noise: float = 1.0
    rho: float = 7.0
    clip_denoised: bool = True

    def problems(self) -> Iterable[str]:
        if self.num_train_timesteps < 2:
            yield "num_train_timesteps = 1, allowed: from 2"

    @property
    def first_time(self) -> float:
        return math.floor(TIME * math.log(self.sigma_min))  # whole, so that no float32 is beyond it

    @property
    def last_time(self) -> float:
        return math.ceil(TIME * math.log(self.sigma_max))

    def marginal(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.ones_like(t), np.exp(t / TIME)

    def grid(self, n: int, timesteps: Custom = None) -> Grid:
        last = self.num_train_timesteps - 1
        counted = np.arange(n)[::-1] * ((last + 1) // n) if timesteps is None else np.trunc(timesteps)
        if counted[0] > last:
            raise InvalidArgument(f"timestep {counted[0]:g} is beyond the last, {last}")
        sigmas = karras(self.sigma_min, self.sigma_max, last + 1, self.rho)[counted[::-1].astype(int)]
        levels = zip(TIME * np.log(sigmas), sigmas.astype(f32), strict=True)
        nodes = [ve_node(t, sigma, self.sigma_data) for t, sigma in levels]
        return Grid.through([*nodes, ve_node(self.first_time, self.sigma_min)], self.sigma_max)

    def build(self, grid: Grid) -> Table:
        data, least = self.sigma_data, self.sigma_min

        def read(at: Node, x: Form, m: Form) -> tuple[Form, Form]:
            above = at.sigma - least
            x0 = data**2 / (above**2 + data**2) * x + above * data / math.hypot(at.sigma, data) * m
            return x0, (x - x0) / at.sigma

        def move(at: Node, to: Node, x: Form, y: Form, eps: Form, z: Form) -> Form:
            return y + self.s_noise * math.sqrt(max(to.sigma**2 - least**2, 0)) * z

        return one_step(grid, read, move, clip=1.0 if self.clip_denoised else None)


class ConsistencyDecoderScheduler(Trained):
    """Two steps of the decoder that is a consistency model, from training times 1008 and 512."""

    num_train_timesteps: int = 1024
    sigma_data: float = 0.5

    def abar(self) -> np.ndarray:  # [T] f32
        return alphas_cumprod(self.num_train_timesteps, 0.0, 0.0, "squaredcos_cap_v2")

    def grid(self, n: int) -> Grid:
        if n != 2:
            raise InvalidArgument(f"num_inference_steps = {n}, allowed: 2")
        nodes = [training_node(self.abar(), t, True) for t in (1008, 512)]
        nodes = [replace(node, c_in=1 / self._norm(node)) for node in nodes]
        return Grid.through([*nodes, vp_node(0, 1.0)], nodes[0].sigma)

    def build(self, grid: Grid) -> Table:
        return one_step(grid, self._read, resampled)

    def _read(self, at: Node, x: Form, m: Form) -> tuple[Form, Form]:
        data, norm = self.sigma_data, self._norm(at)
        x0 = at.alpha * (data / norm) ** 2 * x + at.sigma * data / norm * m
        return x0, (x - at.alpha * x0) / at.sigma

    def _norm(self, node: Node) -> float:
        """The root mean square of x, where the data's is sigma_data."""
        return math.hypot(node.sigma, node.alpha * self.sigma_data)


class SCMScheduler(Scheduler):
    """Few steps of a continuous-time consistency model, over angles from max_timesteps (1.5708) to 0. They are even,
    but two steps go by way of intermediate_timesteps (1.3). Options: those two, or custom timesteps in their place,
    the last of which is the one arrived at.

    Latents, noise and the network's output are in units in which the data's deviation is sigma_data: as in the
    reference, the caller multiplies the initial noise and the output by it, and divides x by it for the network."""

    last_time: ClassVar[float] = LAST_ANGLE

    num_train_timesteps: int = 1000
    prediction_type: Literal["trigflow"] = "trigflow"
    sigma_data: float = 0.5

    def marginal(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.cos(t), np.sin(t) * self.sigma_data

    def grid(
        self,
        n: int,
        timesteps: Custom = None,
        max_timesteps: float | None = None,
        intermediate_timesteps: float | None = None,
    ) -> Grid:
        first = LAST_ANGLE if max_timesteps is None else max_timesteps
        middle = 1.3 if intermediate_timesteps is None else intermediate_timesteps
        if timesteps is None:
            if not (allows(float, first) and allows(float, middle) and 0 < first <= LAST_ANGLE):
                raise InvalidArgument(f"max_timesteps = {first!r}, allowed: above 0, at most {LAST_ANGLE}")
            if n == 2 and not 0 < middle < first:
                raise InvalidArgument(f"intermediate_timesteps = {middle!r}, allowed: between 0 and {first}")
            if n != 2 and intermediate_timesteps is not None:
                raise InvalidArgument(f"intermediate_timesteps = {middle!r} needs 2 steps, not {n}")
            times = np.array([first, middle, 0], f32) if n == 2 else linspace(first, 0, n + 1)
        else:
            if max_timesteps is not None or intermediate_timesteps is not None:
                raise InvalidArgument("timesteps replace max_timesteps and intermediate_timesteps: drop those")
            if len(timesteps) < 2:
                raise InvalidArgument("one of timesteps, allowed: two or more, the last being the end")
            times = timesteps.astype(f32)
        return Grid.through([Node(t, math.cos(t), math.sin(t) * self.sigma_data) for t in times.tolist()])

    def build(self, grid: Grid) -> Table:
        return one_step(grid, self._read, resampled)

    def _read(self, at: Node, x: Form, m: Form) -> tuple[Form, Form]:
        x0 = at.alpha * x - at.sigma / self.sigma_data * m
        return x0, (x - at.alpha * x0) / at.sigma
