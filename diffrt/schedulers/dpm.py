"""DPM-Solver and DPM-Solver++, as an ODE and as an SDE: one formula.

Lu et al. 2022: DPM-Solver (arXiv:2206.00927, eq. 3.4) integrates the noise prediction, DPM-Solver++
(arXiv:2211.01095, eq. 8, algorithms 1 and 2 and section 5) the data prediction. With c, a, k and b of exponential.py
(tau = 1 for an SDE), h the step in lambda, D0, D1, D2 scaled differences of the prediction and phi_j the integrals of
the exponential against powers of lambda,

    x' = c x - a (phi_1(-k h) D0 + phi_2(-k h) D1 + phi_3(-k h) D2) + b z
"""

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import numpy as np

from diffrt.schedulers.rows import combined
from diffrt.schedulers.solver import Solver


class DPMSolver(Solver):
    """Abstract."""

    aliases: ClassVar = {
        "algorithm_type": {"deis": "dpmsolver++"},
        "solver_type": {"logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"},
    }

    solver_order: Literal[1, 2, 3] = 2
    algorithm_type: Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lambda_min_clipped: float = -math.inf
    variance_type: str | None = None

    def problems(self) -> Iterable[str]:
        yield from super().problems()
        if not self.data and getattr(self, "final_sigmas_type", None) == "zero":
            yield f"{self.algorithm_type} cannot step to zero noise: set final_sigmas_type to sigma_min"
        if self.algorithm_type == "sde-dpmsolver" and self.solver_order == 3:
            yield "sde-dpmsolver has no order 3: set solver_order to 2, or algorithm_type to sde-dpmsolver++"

    @property
    def data(self) -> bool:
        """Whether it integrates x0; else eps."""
        return self.algorithm_type.endswith("++")

    @property
    def tau(self) -> float:
        """The scale of its noise."""
        return 1.0 if self.algorithm_type.startswith("sde") else 0.0

    def weigh(self, lams: Sequence[float], start: float, end: float, k: float) -> list[float]:
        """The formula's sum, negative, as weights of the outputs made at as many lams as the order."""
        h = end - start
        return self.integral(differences(np.eye(len(lams)), lams, h), h, k).tolist()

    def integral(self, d: Sequence[np.ndarray], h: float, k: float) -> np.ndarray:
        """The same of as many differences d."""
        return -combined(self._phi(-k * h, len(d)), d)

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


def differences(y: Sequence[np.ndarray] | np.ndarray, lams: Sequence[float], h: float) -> list[np.ndarray]:
    """D0, D1, D2, one for each lambda, of predictions y made at lams: D0 = y[0], D1 = h y' at lams[0], and
    D2 = h^2 y'' / 2, by divided differences."""
    if len(lams) == 1:
        return [y[0]]
    first = (y[0] - y[1]) / (lams[0] - lams[1])
    if len(lams) == 2:
        return [y[0], h * first]
    before = (y[1] - y[2]) / (lams[1] - lams[2])
    second = (first - before) / (lams[0] - lams[2])
    return [y[0], h * (first + (lams[0] - lams[1]) * second), h**2 * second]
