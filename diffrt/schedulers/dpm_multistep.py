"""DPM-Solver and DPM-Solver++, multistep, as an ODE and as an SDE.

Lu et al. 2022: DPM-Solver (arXiv:2206.00927, eq. 3.4) integrates the noise prediction, DPM-Solver++
(arXiv:2211.01095, eq. 8, algorithm 2 and section 5) the data prediction. All four are one formula. With
lambda = log(alpha / sigma), h the step in it, D0, D1, D2 scaled differences of the prediction and phi_j the
integrals of the exponential against powers of lambda,

    x' = c x - a (phi_1(k) D0 + phi_2(k) D1 + phi_3(k) D2) + b z

                       prediction   c                       a          k      b
    dpmsolver          eps          alpha' / alpha          sigma'     h      0
    dpmsolver++        x0           sigma' / sigma          alpha'     -h     0
    sde-dpmsolver      eps          alpha' / alpha          2 sigma'   h      sigma' sqrt(exp(2h) - 1)
    sde-dpmsolver++    x0           sigma' / sigma exp(-h)  alpha'     -2h    sigma' sqrt(1 - exp(-2h))
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from diffrt.schedulers.base import DiscreteTime
from diffrt.schedulers.betas import f32, sigmas_of
from diffrt.schedulers.grid import Grid, Node, spaced, time_of, vp_node_of_sigma
from diffrt.schedulers.prediction import Prediction, predict
from diffrt.schedulers.table import Rows, Table, Threshold


@dataclass(frozen=True, kw_only=True)
class DPMSolverMultistepScheduler(DiscreteTime):
    """One evaluation per step and up to two past predictions. solver_order 3 is the reference's, whose D2 is half
    of what order 3 needs: the error falls with the square of the step, as for 2, with a smaller constant."""

    aliases: ClassVar = {
        "algorithm_type": {"deis": "dpmsolver++"},
        "solver_type": {"logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"},
    }

    solver_order: Literal[1, 2, 3] = 2
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    algorithm_type: Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    use_lu_lambdas: bool = False
    use_flow_sigmas: bool = False
    flow_shift: float = 1.0
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    lambda_min_clipped: float = -math.inf
    variance_type: str | None = None
    rescale_betas_zero_snr: bool = False
    use_dynamic_shifting: bool = False
    time_shift_type: str = "exponential"

    def problems(self) -> Iterable[str]:
        if not self.algorithm_type.endswith("++") and self.final_sigmas_type == "zero":
            yield f"{self.algorithm_type} cannot step to zero noise: set final_sigmas_type to sigma_min"
        if self.algorithm_type == "sde-dpmsolver" and self.solver_order == 3:
            yield "sde-dpmsolver has no order 3: set solver_order to 2, or algorithm_type to sde-dpmsolver++"
        if self.variance_type in ("learned", "learned_range"):
            yield f"variance_type {self.variance_type} is not supported: the network must put out the mean alone"

    def grid(self, num_inference_steps: int) -> Grid:
        n, abar = num_inference_steps, self.abar()
        train = sigmas_of(abar)
        # Training steps with a lambda below lambda_min_clipped are left out: cosine schedules need that.
        lam = np.log(np.sqrt(abar)) - np.log(np.sqrt(1 - abar))
        last = len(train) - int(np.searchsorted(lam[::-1], self.lambda_min_clipped))
        if self.timestep_spacing == "trailing":
            times = spaced("trailing", n, last, stride=len(train) / n)
        else:  # n + 1 times, of which the last is only arrived at
            times = spaced(self.timestep_spacing, n + 1, last, self.steps_offset)[:-1]
        times = np.round(times)
        sigmas = np.interp(times, np.arange(len(train)), train)
        if respace := self.respacing():
            sigmas = respace(float(train[0]), float(train[-1]), n)
            times = time_of(sigmas, train)
            if (self.use_karras_sigmas or self.use_lu_lambdas) and self.beta_schedule != "squaredcos_cap_v2":
                times = np.round(times)
        sigmas = np.append(sigmas, train[0] if self.final_sigmas_type == "sigma_min" else 0).astype(f32)
        times = np.append(np.trunc(times), 0)
        return Grid.through([vp_node_of_sigma(t, sigma) for t, sigma in zip(times, sigmas, strict=True)])

    def build(self, grid: Grid) -> Table:
        return self.build_with(partial(predict, self.prediction_type), grid)

    def build_with(self, predict: Prediction, grid: Grid) -> Table:
        """The method for a network whose output is read by another `predict`."""
        rows = Rows("x", *(f"y{j}" for j in range(1, self.solver_order)))
        x, *past = rows.slots
        nodes = [*grid.distinct().at, grid.to[-1]]
        for k, (at, to) in enumerate(grid):
            x0, eps = predict(at, rows.x, rows.m)
            if self.algorithm_type.endswith("++"):
                reads, y = x0, rows.y
            elif self.thresholding:  # the threshold acts on x0; what it leaves says what the noise is
                reads, y = x0, (x - at.alpha * rows.y) / at.sigma
            else:
                reads, y = eps, rows.y
            order = self._order(k, len(grid), len(grid) + grid.skipped)
            lams = [node.lam for node in nodes[k::-1][:order]]
            h = max(to.lam - at.lam, 0.0)  # a last step from sigma_min to sigma_min may round to below 0
            c, a, arg, b = self._constants(at, to, h)
            terms = zip(self._phi(arg, order), differences([y, *past], lams, h), strict=True)
            x_next = c * x - a * sum(phi * d for phi, d in terms) + b * rows.z
            rows.add(k, at, y=reads, x0=x0, then=[x_next, y, *past][: self.solver_order])
        threshold = Threshold(self.dynamic_thresholding_ratio, self.sample_max_value)
        return rows.table(grid, threshold=threshold if self.thresholding else None)

    def _order(self, k: int, n: int, whole: int) -> int:
        """Limited by what is remembered, and near the end where the whole run is short. Only order 1 steps to zero."""
        short = self.lower_order_final and whole < 15
        if k == n - 1 and (short or self.euler_at_final or self.final_sigmas_type == "zero"):
            return 1
        return min(self.solver_order, k + 1, 2 if k == n - 2 and short else 3)

    def _constants(self, at: Node, to: Node, h: float) -> tuple[float, float, float, float]:
        """(c, a, k, b) of the table above."""
        match self.algorithm_type:
            case "dpmsolver":
                return to.alpha / at.alpha, to.sigma, h, 0.0
            case "dpmsolver++":
                return to.sigma / at.sigma, to.alpha, -h, 0.0
            case "sde-dpmsolver":
                return to.alpha / at.alpha, 2 * to.sigma, h, to.sigma * math.sqrt(math.expm1(2 * h))
            case _:
                noise = to.sigma * math.sqrt(-math.expm1(-2 * h))
                return to.sigma / at.sigma * math.exp(-h), to.alpha, -2 * h, noise

    def _phi(self, k: float, order: int) -> list[float]:
        """phi_1 = exp(k) - 1, phi_2 = phi_1 / k - 1, phi_3 = (phi_1 - k) / k^2 - 1/2; all 0 at k = 0."""
        phi_1 = math.expm1(k)
        if order == 1 or k == 0:
            return [phi_1, 0.0, 0.0][:order]
        phi_2 = phi_1 / k - 1
        if order == 2:
            return [phi_1, phi_1 / 2 if self.solver_type == "midpoint" else phi_2]
        phi_3 = (phi_1 - k) / k**2 - 1 / 2
        # The reference's SDE has the sign of its 1/2 reversed; its pictures are made with that.
        return [phi_1, phi_2, phi_3 + 1 if self.algorithm_type == "sde-dpmsolver++" else phi_3]


def differences(y: list[np.ndarray], lams: list[float], h: float) -> list[np.ndarray]:
    """D0, D1, D2, one for each lambda, of predictions y made at lams, newest first: D1 = h y' there, and
    D2 = h^2 y'' / 2, by divided differences."""
    if len(lams) == 1:
        return y[:1]
    first = (y[0] - y[1]) / (lams[0] - lams[1])
    if len(lams) == 2:
        return [y[0], h * first]
    before = (y[1] - y[2]) / (lams[1] - lams[2])
    second = (first - before) / (lams[0] - lams[2])
    return [y[0], h * (first + (lams[0] - lams[1]) * second), h**2 * second]
