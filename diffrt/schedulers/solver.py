"""What the exponential integrators share: keys, noise levels, and how the network is read.

Their noise levels are those of n + 1 training times, of which one end is only arrived at, or levels re-spaced
between the training's ends (grid.RESPACINGS), or the shifted levels of a flow.
"""

import math
from collections.abc import Iterable
from operator import attrgetter
from typing import ClassVar, Literal

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.base import DiscreteTime, Respacing, Thresholding
from diffrt.schedulers.betas import f32, sigmas_of
from diffrt.schedulers.exponential import Integrand
from diffrt.schedulers.grid import RESPACINGS, Custom, Grid, noise_to_signal, spaced, ve_levels, vp_node_of_sigma
from diffrt.schedulers.shifting import dynamic_shift, flow_node, shifted

SHORT = 15  # a run of fewer steps, which the reference ends with lower orders


class Solver(Thresholding, Respacing, DiscreteTime):
    """Abstract."""

    flow_respacings: ClassVar[tuple[str, ...]] = ()  # the re-spacings that use_flow_sigmas can be combined with

    prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction"] = "epsilon"  # type: ignore[assignment]
    lower_order_final: bool = True
    use_flow_sigmas: bool = False
    flow_shift: float = 1.0

    def problems(self) -> Iterable[str]:
        for key in RESPACINGS:
            if self.use_flow_sigmas and getattr(self, key, False) and key not in self.flow_respacings:
                yield f"use_flow_sigmas and {key} exclude each other: keep one"
        if self.prediction_type == "flow_prediction" and not self.use_flow_sigmas:
            yield "prediction_type flow_prediction needs use_flow_sigmas: set it to True"
        if self.prediction_type == "v_prediction" and self.use_flow_sigmas:
            yield "v_prediction is not what a flow model predicts: set use_flow_sigmas to False"
        if getattr(self, "variance_type", None) in ("learned", "learned_range"):
            yield "a learned variance_type is not supported: the network must put out the mean alone"

    def marginal(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.use_flow_sigmas:
            return 1 - t / self.num_train_timesteps, t / self.num_train_timesteps
        return super().marginal(t)

    @property
    def train_sigmas(self) -> np.ndarray:  # [T] f32
        return sigmas_of(self.abar())

    @property
    def usable(self) -> int:
        """How many training steps are used: those of a lambda below lambda_min_clipped are not, which cosine schedules
        need."""
        abar = self.abar()
        lam = np.log(np.sqrt(abar)) - np.log(np.sqrt(1 - abar))
        return len(lam) - int(np.searchsorted(lam[::-1], getattr(self, "lambda_min_clipped", -math.inf)))

    def training_times(self, n: int, end: Literal["first", "last"] = "last") -> np.ndarray:  # [n] f64, descending
        """Whole training times; the end that is only arrived at is the last of n + 1, or for inversion the first."""
        if self.timestep_spacing == "trailing":
            stride = self.num_train_timesteps / n
            return np.round(spaced("trailing", n, self.usable, stride=stride))
        times = np.round(spaced(self.timestep_spacing, n + 1, self.usable, self.steps_offset))
        return times[:-1] if end == "last" else times[1:]

    def custom_times(self, timesteps: np.ndarray) -> np.ndarray:  # [n] f64
        """Timesteps of the user's, cut to whole ones."""
        if self.use_flow_sigmas or self.respacing():
            raise InvalidArgument("timesteps and re-spaced or flow sigmas exclude each other: give only one")
        return np.trunc(timesteps)

    def shift(self, mu: float | None) -> float:
        """The static shift of a run, from the config or by what mu it is given."""
        if mu is None:
            return self.flow_shift
        if not self.config.get("use_dynamic_shifting"):
            raise InvalidArgument(f"mu = {mu!r} is for dynamic shifting: set use_dynamic_shifting, or leave mu out")
        return dynamic_shift(mu, self.config.get("time_shift_type", "exponential"))

    def grid(self, n: int, timesteps: Custom = None, mu: float | None = None) -> Grid:
        """Towards the picture: to zero noise, or as near to it as final_sigmas_type or the class goes."""
        times = self.training_times(n) if timesteps is None else self.custom_times(timesteps)
        # Of a flow as many equal steps from just below 1 to 0, shifted, without the 0.
        flow = shifted(1.0 - np.linspace(1, 1 / self.num_train_timesteps, n + 1), self.shift(mu))[:0:-1]
        times, sigmas = self.levels(times, flow)
        ends = {"zero": 0, "sigma_min": self.train_sigmas[0], None: self.last_level(sigmas)}
        return self.through(times, np.append(sigmas, ends[getattr(self, "final_sigmas_type", None)]))

    def levels(
        self, times: np.ndarray, flow: np.ndarray, low: float | None = None, high: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:  # [n] f64, [n] f64
        """(times, sigmas): at these training times, or as many re-spaced between the training's ends or those given,
        or the flow's. The network is told whole times."""
        first, last = map(float, self.train_sigmas[[0, -1]])
        ends = first if low is None else low, last if high is None else high
        times, sigmas = ve_levels(self.abar(), times, self.respacing(), ends, rounded=False)
        if self.use_flow_sigmas:
            sigmas = sigmas / (sigmas + 1) if self.respacing() else flow
            times = sigmas * self.num_train_timesteps
        elif self.respacing() and self.rounds_times():
            times = np.round(times)
        return np.trunc(times), sigmas

    def rounds_times(self) -> bool:
        """Whether the times of re-spaced levels are rounded; else they are cut."""
        return self.use_karras_sigmas

    def last_level(self, sigmas: np.ndarray) -> float:
        """Where a run ends that does not end at zero noise: training step 0, or nowhere else than its last level."""
        return float(sigmas[-1] if self.use_flow_sigmas or self.respacing() else self.train_sigmas[0])

    def through(self, times: np.ndarray, sigmas: np.ndarray) -> Grid:  # [n], [n + 1]
        node = flow_node if self.use_flow_sigmas else vp_node_of_sigma
        nodes = [node(t, sigma) for t, sigma in zip((*times, 0.0), sigmas.astype(f32), strict=True)]
        return Grid.through(nodes, level=attrgetter("sigma") if self.use_flow_sigmas else noise_to_signal)

    def integrand(self, data: bool, shaped: bool) -> Integrand:
        return Integrand(self.read, data, shaped)

    def orders(self, grid: Grid, most: int, runs: float = math.inf, ends_at_one: bool = False) -> list[int]:
        """Of each step: as many past outputs as there are, and with lower_order_final, in `runs` of fewer steps, no
        more than there are steps left."""
        n, lower = len(grid), self.lower_order_final and len(grid) + grid.skipped < runs
        orders = [min(most, k + 1, n - k if lower else most) for k in range(n)]
        return [*orders[:-1], 1] if ends_at_one else orders
